"""From responses to verdicts, win rates, KL and Pareto fronts."""
