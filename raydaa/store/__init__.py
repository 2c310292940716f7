"""What lies on disk: sealed folders, tables, the records of a study's folder, its mirror in an object store.

Used by everybody; knows the figures that it keeps and nothing else.
"""
