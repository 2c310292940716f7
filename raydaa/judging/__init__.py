"""Who says which of two responses is better: a rule, a reward model, a language model; one class a kind.

Used by the pipeline; knows training and generation, which run models for it.
"""
