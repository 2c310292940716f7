"""Figures from verdicts and log-probabilities, with their intervals, and the values that hold them. Numpy alone.

Used by everybody: the store keeps these values.
"""
