"""What judging by an endpoint will take."""

from collections.abc import Iterator, Sequence

from raydaa.judging.prompt import judge_prompt
from raydaa.pipeline.prepared import Prepared
from raydaa.pipeline.trials import group_of
from raydaa.planning.values import JudgingPlan
from raydaa.settings.evaluation import BenchmarkSettings
from raydaa.settings.judge import LanguageJudgeSettings
from raydaa.settings.study import StudySettings
from raydaa.store.records import Point
from raydaa.store.tables import column, read

CHARACTERS = 4  # of English in a token
WRITTEN = {"token": 1, "winner": 80, "degrees": 500}  # tokens of a verdict, by what is read of it: an assumption


def plan_judging(settings: StudySettings, prepared: Prepared, finished: Sequence[Point]) -> Iterator[JudgingPlan]:
    """For each benchmark whose judge is paid by the token; responses are taken to be as long as they may be."""
    evaluation = settings.evaluation
    trials = len({group_of(point, evaluation.judge_trials) for point in finished})
    beside = {*settings.models_beside, *evaluation.judged_models, *(point.init for point in finished)}
    for benchmark in evaluation.benchmarks:
        judge = benchmark.judged_by(evaluation.judge)
        if judge.paid_by_token and isinstance(judge, LanguageJudgeSettings):
            models = trials + len(beside - {evaluation.baseline_of(benchmark)})
            yield _of_benchmark(settings, prepared, benchmark, judge, models)


def _of_benchmark(
    settings: StudySettings,
    prepared: Prepared,
    benchmark: BenchmarkSettings,
    judge: LanguageJudgeSettings,
    models: int,
) -> JudgingPlan:
    prompts = column(read(prepared.table(benchmark.group)), "prompt_tokens")
    lengths = [len(tokens) for tokens in prompts]
    orders = judge.num_orders
    prompt = judge_prompt(judge.prompt_name)
    games = models * len(lengths) * orders
    words = len(prompt.system + prompt.user) / CHARACTERS
    longest = 2 * benchmark.sampling(settings.generation).max_new_tokens
    sent = models * orders * (sum(lengths) + len(lengths) * (words + longest))
    written = float(games * WRITTEN[prompt.answer])
    return JudgingPlan(benchmark.name, games, models, sent, written, judge.cost(sent, written))
