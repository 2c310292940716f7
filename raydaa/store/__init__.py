"""What lies on disk: sealed folders, tables, a study's own, and its mirror in an object store. Used by everybody."""
