"""Who says which of two responses is better, and the memory of what was said."""
