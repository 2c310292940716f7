"""From files to token ids to packed batches."""
