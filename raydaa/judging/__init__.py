"""Who says which of two responses is better: a rule, a reward model, a language model. Used by the pipeline."""
