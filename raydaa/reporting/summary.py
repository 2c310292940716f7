"""What a study found, in one sentence."""

from raydaa.results import TrialResults


def summarize(results: TrialResults) -> str:
    """The best trial, how good it is by which judge, and how far from its start."""
    best_rows = results.best_of_each()
    if not best_rows:
        return "no trial finished"
    best = best_rows[0]
    settings = ", ".join(f"{k} {v:g}" for k, v in best.parameters.items() if k != "length_normalized")
    how = f"{best.title} ({settings}, learning rate {best.learning_rate:g})"
    rate = best.rate
    tied = rate is not None and rate.low == rate.high == 50  # on every prompt: then the rate is no finding
    lead = f"nothing was told apart: every prompt is a tie on {results.judged_by}; " if tied else ""
    if rate is None or tied:
        figures = f"held-out preference loss {best.preference_loss or 0:.3f}"
    else:
        figures = f"win rate {rate.value:.1f} % [{rate.low:.1f}, {rate.high:.1f}] on {results.judged_by}"
    distance = f" at KL {best.kl:.2f} nats" if best.kl is not None else ""
    return f"{lead}best is {how}, {figures}{distance}"
