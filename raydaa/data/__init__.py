"""From a file of somebody's rows to packed batches: sources, checks, chat templates, tokens, tables, packing.

Used by training, generation and the pipeline; knows settings and the store, no model and no Ray.
"""
