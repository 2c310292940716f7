"""What a study will cost, where it names prices."""

from collections.abc import Iterator, Sequence

from raydaa.judging.prompt import judge_prompt
from raydaa.pipeline.context import Context
from raydaa.pipeline.evaluation import group_of
from raydaa.settings.evaluation import BenchmarkSettings
from raydaa.store.tables import read
from raydaa.tuning.search_space import Point

CHARACTERS = 4  # of English in a token
WRITTEN = {"token": 1, "winner": 80, "degrees": 500}  # tokens of a verdict, by what is read of it: an assumption


def gpu_cost(context: Context, hours: float) -> Iterator[str]:
    """A line on so many GPU-hours."""
    price = context.settings.scaling.price_per_gpu_hour
    if price is not None:
        yield f"  {hours * price:,.2f} at {price:g} a GPU-hour"


def judging_cost(context: Context, finished: Sequence[Point]) -> Iterator[str]:
    """A line on each benchmark with a judge behind an endpoint: games, tokens, and their price where there is one.

    Responses are taken to be as long as they may be.
    """
    evaluation = context.settings.evaluation
    trials = len({group_of(point, evaluation.judge_trials) for point in finished})
    beside = {*context.settings.models_beside, *evaluation.judged_models, *(point.init for point in finished)}
    for benchmark in evaluation.benchmarks:
        if benchmark.judged_by(evaluation.judge).kind == "openai":
            yield _line(context, benchmark, trials + len(beside - {evaluation.baseline_of(benchmark)}))


def _line(context: Context, benchmark: BenchmarkSettings, models: int) -> str:
    judge = benchmark.judged_by(context.settings.evaluation.judge)
    lengths = [len(tokens) for tokens in read(context.prepared.table(benchmark.group))["prompt_tokens"].to_pylist()]
    orders, asked = judge.orders or 2, judge_prompt(judge.prompt or "alpaca_eval")
    games = models * len(lengths) * orders
    words = len(asked.system + asked.user) / CHARACTERS
    longest = 2 * benchmark.sampling(context.settings.generation).max_new_tokens
    sent = models * orders * (sum(lengths) + len(lengths) * (words + longest))
    written = games * WRITTEN[asked.answer]
    cost = "" if judge.price is None else f": {judge.price.of(sent, written):,.2f}"
    return (
        f"judging: {benchmark.name}: {games:,} games of {models} models; {sent / 1e6:,.1f} million tokens are sent at "
        f"most, about {written / 1e6:,.2f} million written{cost}"
    )
