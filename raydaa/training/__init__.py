"""One run, from starting weights to exported ones, and how Ray's workers drive it.

Used by tuning and the pipeline; knows data, settings and the store, and neither generation nor judging.
"""
