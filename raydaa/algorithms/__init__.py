"""Losses of summed log-probabilities, a class each, and what composes them. Torch alone; used by everybody."""
