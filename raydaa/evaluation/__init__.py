"""Figures from verdicts and log-probabilities, with their intervals. Numpy alone; used by pipeline and reporting."""
