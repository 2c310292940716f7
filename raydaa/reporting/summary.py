"""What a study found, in one sentence."""

from collections.abc import Sequence

from raydaa.evaluation.comparison import Comparison, compare
from raydaa.evaluation.figures import ModelFigures
from raydaa.outcomes import read_outcomes, stack
from raydaa.reporting.formatting import with_interval
from raydaa.reporting.tables import NOT_ALIGNED
from raydaa.results import TrialResults
from raydaa.trial_row import TrialRow

UNREAD = 1.0  # percent of verdicts from which it is said what they could change


def summarize(results: TrialResults) -> str:
    """The best setting, how good it is by which judge, what that owes to having chosen it, how far from its start."""
    best_rows = results.best_of_each()
    if not best_rows:
        return "no trial finished"
    best = best_rows[0]
    if best.rate is not None and best.rate.wins == best.rate.losses == 0:  # then the rate is no finding
        lead = f"nothing was told apart: every prompt is a tie on {results.judged_by}; best is"
        return f"{lead} {_settings(best)}, {_loss(best)}{_distance(best)}"
    lead = "best is" if is_better_than_start(results, best) else f"{nothing_better(best)}; the best of them is"
    kept = "" if results.keeps_limits(best) else f"none keeps a {results.evaluation.limits}; "
    return f"{kept}{lead} {_settings(best)}, {_figures(results, best)}{_seeds(best)}{_distance(best)}"


def is_better_than_start(results: TrialResults, best: TrialRow) -> bool:
    """Whether a setting is shown to be better than what it started from, by what settings are ranked by."""
    compared = against_start(results, best)
    if compared is not None:
        return compared.different and compared.difference > 0
    if results.judged or best.preference_loss is None:
        return results.judged
    if best.held_out is None:
        return best.preference_loss < NOT_ALIGNED
    return best.held_out.high + results.optimism_of_best < NOT_ALIGNED


def against_start(results: TrialResults, best: TrialRow) -> Comparison | None:
    """The recommended setting against what it started from, without the optimism of having chosen it among all; None
    where these were not judged on a common prompt."""
    first = results.evaluation.first_benchmark
    start = results.models.get(best.init, ModelFigures())
    before = read_outcomes(results.folder, start.benchmarks.get(first))
    own = [read_outcomes(results.folder, trial.figures) for trial in results.trials_of(best)]
    if not before.keys() & {name for by_prompt in own for name in by_prompt}:
        return None
    optimism = [results.optimism_of_best / 100, 0.0]
    return compare([best.title, best.init], stack([own, [before]]), results.spread, optimism, untrained=[1])[0]


def nothing_better(best: TrialRow) -> str:
    """What to say where none is."""
    return f"no setting is shown to be better than {best.init}, which it started from"


def certainty(results: TrialResults) -> list[str]:
    """What intervals and differences here speak of, and what the choice of a setting does to its value."""
    best = results.best_of_each()
    if not best:
        return []
    seeds = max(len(row.seeds) for row in best)
    finalists = best[0].trial.finalist
    units = "prompts" if results.judged else "held-out pairs"
    failed = sum(not row.finished for row in results if row.trial.finalist)
    if finalists:
        whose = f"a setting, whatever the seed and the {units}" if results.spread else f"these models, over {units}"
        drawn = (
            f"Each method's best setting was trained again with {seeds} fresh seed{'s' if seeds > 1 else ''}; its "
            f"figures are of those alone: nothing was chosen by them. Brackets are 95 % intervals of {whose}."
        )
    elif seeds > 1:
        drawn = (
            f"Values are means over seeds. Brackets are 95 % intervals of a setting, whatever the seed and the {units}."
        )
    else:
        moved = "a win rate too (by 1 to 1.5 points in the pocket world, unknown for yours)"
        drawn = (
            f"Each setting was trained once. Brackets are 95 % intervals over {units}, of these models: another seed "
            f"would move {moved if results.judged else 'a loss too'}, and what is different are these models, not the "
            f"methods. Several search.seeds say more."
        )
    chosen = (
        f"A method's best was chosen on the same {units} that its figures are from, which flatters it. Without the "
        f"choice's optimism is what is left when the choice is repeated on {units} drawn anew, and what it then loses "
        f"is taken off; methods are ranked and compared by that."
    )
    if finalists:
        chosen = (
            f"What is left of the recommended setting without the choice's optimism is that of a choice among the "
            f"methods alone, repeated on {units} drawn anew."
        )
    of_failed = [f"{failed} finalists did not finish, and are missing from the means."] if failed else []
    return [drawn, chosen, *of_failed, *_unread(best)]


def cost_of_limits(results: TrialResults) -> str | None:
    """What the limits of what is recommended cost; None where there are none."""
    limits = results.evaluation.limits
    if not limits or not results.settings:
        return None
    kept = sum(results.keeps_limits(setting) for setting in results.settings)
    among = f"{limits}: {kept} of {len(results.settings)} settings probably keep that"
    free = results.without_limits()
    best, other = _first_chosen(results), _first_chosen(free)
    if best.key == other.key:
        return f"{among}; without it the same one is recommended"
    lost = free.quality(other) - free.optimism_of(other) - (results.quality(best) - results.optimism_of(best))
    cost = f"{lost:.1f} points of win rate" if results.judged else f"{lost:.3f} nats of held-out loss"
    return f"{among}; it costs {cost} against {_settings(other)}{_distance(other)}"


def _first_chosen(results: TrialResults) -> TrialRow:
    """What the sweep recommends, before any finalist."""
    return max(results.chosen(), key=results.rank_of_best)


def _unread(best: Sequence[TrialRow]) -> list[str]:
    """Between what win rates lie, whatever the judge's unreadable answers were."""
    notes: list[str] = []
    for row in best:
        if row.rate is not None and row.rate.unread >= UNREAD:
            notes.append(
                f"{row.rate.unread:.1f} % of what the judge said of {row.title} can't be read and is left out: had it "
                f"all been losses, or all wins, its win rate would be {row.rate.least:.1f} or {row.rate.most:.1f} %."
            )
    return notes


def _settings(row: TrialRow) -> str:
    values = [f"{name} {value:g}" for name, value in row.parameters.items() if name != "length_normalized"]
    return f"{row.title} ({', '.join([*values, f'learning rate {row.learning_rate:g}'])})"


def _figures(results: TrialResults, best: TrialRow) -> str:
    if best.rate is None:
        return _loss(best)
    shown = with_interval(best.rate.value, best.rate.low, best.rate.high)
    without = best.rate.value - results.optimism_of_best
    rate = f"win rate {best.rate.value:.1f} % {shown.partition(' ')[2]}"
    return f"{rate} ({without:.1f} without the choice's optimism) on {results.judged_by}"


def _loss(row: TrialRow) -> str:
    if row.held_out is None:
        return f"held-out preference loss {row.preference_loss or 0:.3f}"
    shown = with_interval(row.held_out.value, row.held_out.low, row.held_out.high, 3)
    return f"held-out preference loss {shown}"


def _seeds(row: TrialRow) -> str:
    return f", the mean of {len(row.seeds)} seeds," if len(row.seeds) > 1 else ""


def _distance(row: TrialRow) -> str:
    return f" at KL {row.kl:.2f} nats" if row.kl is not None else ""
