"""What a study found, for people: tables, figures, one page. Reads results and writes nothing else's files."""
