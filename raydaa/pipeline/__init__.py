"""A study's stages, one a file, what each leaves as a value, and what runs them in order.

Used by the command line, `Study.run` and `plan`; the only room that knows all below it.
"""
