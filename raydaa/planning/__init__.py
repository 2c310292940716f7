"""What a study will take, as values and as text, before anything is started. Used by the command line."""
