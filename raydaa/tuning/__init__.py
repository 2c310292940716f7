"""Which trials there are, which of them goes on, and Ray Tune and Optuna to run and draw them.

Used by the pipeline and by planning; knows training and the store.
"""
