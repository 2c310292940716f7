"""A study's stages, one a file, each with the value that says what it is, and what runs them in order.

Used by the command line, `Study.run` and planning; the only room that knows all below it.
"""
