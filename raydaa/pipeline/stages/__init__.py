"""A study's stages, one a file: every module here has a ``STAGE``, and is found by that.

Used by `pipeline/graph.py`, which puts them in order, and by the stages that come after them.
"""
