"""What judging by an endpoint will take."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from raydaa.judging.prompt import judge_prompt
from raydaa.pipeline.prepared import Prepared
from raydaa.pipeline.trials import group_of
from raydaa.planning.values import JudgingPlan
from raydaa.settings.evaluation import BenchmarkSettings
from raydaa.settings.judge import JudgeSettings, LanguageJudgeSettings
from raydaa.settings.study import StudySettings
from raydaa.store.records import Point
from raydaa.store.tables import column, read
from raydaa.tuning.search_space import title_of

CHARACTERS = 4  # of English in a token
WRITTEN = {"token": 1, "winner": 80, "degrees": 500}  # tokens of a verdict, by what is read of it: an assumption


def plan_judging(settings: StudySettings, prepared: Prepared, finished: Sequence[Point]) -> Iterator[JudgingPlan]:
    """For each benchmark whose judge is paid by the token; responses are taken to be as long as they may be."""
    evaluation = settings.evaluation
    search = settings.search
    trials = len({group_of(point, evaluation.judge_trials) for point in finished})
    if evaluation.judge_trials != "finished":  # a setting is taken with all of its seeds
        trials *= len(search.seeds)
    methods = len({title_of(point) for point in finished})
    trials += methods * len(search.fresh_seeds)
    best = methods * len(search.fresh_seeds or search.seeds)
    beside = {*settings.models_beside, *evaluation.judged_models, *(point.init for point in finished)}
    for number, benchmark in enumerate(evaluation.benchmarks):
        judges: dict[str, JudgeSettings] = {benchmark.name: benchmark.judged_by(evaluation.judge)}
        if number == 0 and (second := evaluation.second_judge) is not None:
            judges[f"{benchmark.name}, second judge"] = benchmark.model_copy(update={"judge": second}).judged_by(second)
        everybody = number == 0 or evaluation.further_benchmarks == "all"
        models = (trials if everybody else best) + len(beside - {evaluation.baseline_of(benchmark)})
        for name, judge in judges.items():
            if judge.paid_by_token and isinstance(judge, LanguageJudgeSettings):
                yield replace(_of_benchmark(settings, prepared, benchmark, judge, models), benchmark=name)


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
    available = prepared.read.get(benchmark.group, 0)
    return JudgingPlan(
        benchmark=benchmark.name,
        games=games,
        models=models,
        sent=sent,
        written=written,
        cost=judge.cost(sent, written),
        more_prompts=2 * len(lengths) if orders == 2 and available >= 2 * len(lengths) else None,
    )
