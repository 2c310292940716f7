"""A study's stages, one a file, and what runs them in order."""
