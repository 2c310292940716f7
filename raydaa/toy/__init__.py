"""A study of pairwise against pointwise ranking with networks of one layer. Stands alone beside the pipeline."""
