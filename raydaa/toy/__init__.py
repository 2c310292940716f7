"""A study of pairwise against pointwise ranking with networks of one layer. Used by the command line alone.

Stands beside the pipeline; knows the losses and how charts are drawn.
"""
