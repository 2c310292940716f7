"""The stages after training: who is looked at, what they are asked, scored and judged by, and the figures."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raydaa.artifacts import intact, key_of, model_hash, read_json, write_json
from raydaa.evaluation.kl import kl_divergence
from raydaa.evaluation.reliability import reliability
from raydaa.evaluation.win_rate import win_rate
from raydaa.generation.sample import Sampling
from raydaa.pipeline.context import Context, Start
from raydaa.pipeline.generation import Job, engine_of, generate, repeatable
from raydaa.pipeline.judging import judge
from raydaa.pipeline.scoring import AGREEMENT, score, scorers_gap
from raydaa.pipeline.training import Trial
from raydaa.records import read
from raydaa.settings import JudgeSettings
from raydaa.trial_folder import MODEL, PREFERENCE_LOSS, RECORD, REMOVED, read_metrics


@dataclass(frozen=True)
class Contestant:
    """A model whose responses are looked at: a finished trial, or a start beside them."""

    name: str  # a trial's key, or a start's name
    model: Start
    start: Start | None  # what its KL is measured against; None for a start itself


def evaluate(context: Context, starts: dict[str, Start], trials: Sequence[Trial]) -> None:
    """Everything the report says of quality and distance, as ``evaluation.json``."""
    settings = context.settings.evaluation
    contestants = [
        _contestant(context, starts, trial) for trial in looked_at(context.folder, trials, settings.judge_trials)
    ]
    beside = dict.fromkeys([*settings.models, *([settings.baseline] if settings.baseline != "chosen" else [])])
    contestants += [Contestant(name, starts[name], None) for name in beside]
    judged, for_kl = _jobs(context, contestants)
    generate(context, {job.folder: job for job in [*judged.values(), *for_kl.values()]}.values())
    scores = score(context, {c.name: (for_kl[c.name], c.start) for c in contestants if c.start is not None})
    verdicts = {} if settings.judge.kind == "none" else judge(context, {c.name: judged[c.name] for c in contestants})
    rows = {c.name: _measure(context, c, judged, for_kl, scores, verdicts) for c in contestants}
    keys = {trial.key for trial in trials}
    parts = {
        "trials": {name: row for name, row in rows.items() if name in keys},
        "models": {name: row for name, row in rows.items() if name not in keys},
        "notes": [
            *_notes(context, [for_kl[c.name] for c in contestants]),
            *_notes_on_judge(settings.judge, list(verdicts.values())),
        ],
    }
    write_json(context.folder / "evaluation.json", parts)


def unanswered(context: Context, starts: dict[str, Start], trials: Sequence[Trial]) -> list[Trial]:
    """Trials whose model was removed and has to answer."""
    looked = looked_at(context.folder, trials, context.settings.evaluation.judge_trials)
    gone = [trial for trial in looked if not (context.folder / "trials" / trial.key / MODEL).exists()]
    contestants = [_contestant(context, starts, trial) for trial in gone]
    judged, for_kl = _jobs(context, contestants)
    return [t for t in gone if not all(intact(job.folder) for job in (judged[t.key], for_kl[t.key]))]


def _contestant(context: Context, starts: dict[str, Start], trial: Trial) -> Contestant:
    folder = context.folder / "trials" / trial.key
    removed = (read_json(folder / RECORD) or {}).get(REMOVED)
    model = Start(trial.label, folder / MODEL, removed or model_hash(folder / MODEL))
    return Contestant(trial.key, model, starts[trial.point.init])


def looked_at(folder: Path, trials: Sequence[Trial], rule: str) -> list[Trial]:
    """The finished trials that ``judge_trials`` names, in the study's order.

    ``best_lr_per_beta`` takes the lowest held-out preference loss among trials with the same objective and start,
    ``best_per_method`` that of a method and start.
    """
    finished = [trial for trial in trials if trial.state == "finished"]
    if rule == "finished":
        return finished
    best: dict[str, tuple[float, Trial]] = {}
    for trial in finished:
        point, value = trial.point, read_metrics(folder / "trials" / trial.key)[-1][PREFERENCE_LOSS]
        group = key_of(init=point.init, method=point.method, fraction=point.fraction)
        if rule == "best_lr_per_beta":
            weights = [point.sft_weight, point.align_weight]
            group = key_of(group=group, parameters=point.parameters, weights=weights)
        if group not in best or value < best[group][0]:
            best[group] = value, trial
    keys = {trial.key for _, trial in best.values()}
    return [trial for trial in finished if trial.key in keys]


def _jobs(context: Context, contestants: Sequence[Contestant]) -> tuple[dict[str, Job], dict[str, Job]]:
    """For each contestant the responses to judge, and those KL is measured on (often the same)."""
    settings, generation = context.settings.evaluation, context.settings.generation
    size = context.prepared.rows["prompts"]
    sampling = Sampling(
        generation.temperature, generation.top_k, generation.top_p, generation.max_new_tokens, generation.seed
    )
    exact = replace(sampling, temperature=1.0, top_k=0, top_p=1.0)
    used = size if settings.judge.kind != "none" else min(size, settings.kl_prompts)
    judged = {c.name: _job(context, c.model, sampling, used) for c in contestants}
    if settings.kl_sampling == "study" or exact == sampling:
        return judged, judged
    return judged, {c.name: _job(context, c.model, exact, min(size, settings.kl_prompts)) for c in contestants}


def _job(context: Context, model: Start, sampling: Sampling, prompts: int) -> Job:
    key = key_of(
        model=model.hash,
        data=context.prepared.keys["prompts"],
        prompts=prompts,
        sampling=asdict(sampling),
        engine=engine_of(context.settings),
        batch_size=context.settings.generation.batch_size if engine_of(context.settings) == "transformers" else None,
        batch_invariant=context.settings.generation.batch_invariant,
    )
    return Job(model, sampling, prompts, context.folder / "generations" / key)


def _notes(context: Context, jobs: Sequence[Job]) -> list[str]:
    """What the report must say of the figures' making."""
    notes = []
    if not repeatable(context):
        notes.append(
            "Responses were generated on GPU without batch-invariant kernels (generation.batch_invariant): generated "
            "again, some would differ."
        )
    gap = scorers_gap(context, jobs)
    if gap > AGREEMENT:
        notes.append(
            f"Generation and scoring differ by {gap:.2g} nats per response in what they say of the same responses' "
            f"log-probability (mean over the first of one model): as much of a KL is not the policy's."
        )
    return notes


def _notes_on_judge(judge: JudgeSettings, verdicts: Sequence[Path]) -> list[str]:
    """What the report must say of who judged."""
    tables = [read(folder / "verdicts.parquet") for folder in verdicts]
    if not tables:
        return []
    every = pa.concat_tables(tables)
    notes = []
    if judge.kind == "openai" and judge.prompt == "arena_hard":
        notes.append("Clear verdicts count as slight ones do here; ArenaHard's own score weighs them three times.")
    if unread := every["outcome"].null_count:
        notes.append(f"{unread} of {len(every)} comparisons are left out: the judge's answers could not be read.")
    found = reliability(*(every[name].to_numpy() for name in ("prompt_id", "first", "second")))
    if found is not None:
        share = f"{found.first_favoured:.1f} % [{found.low:.1f}, {found.high:.1f}]"
        bias = "which is a bias" if found.biased else "which shows no bias"
        notes.append(
            f"The judge favours the response it sees first {share} of the time, {bias} by position; in both orders it "
            f"says the same of {found.consistent:.0f} % of the prompts. Both orders are averaged."
        )
    return notes


def _measure(
    context: Context,
    contestant: Contestant,
    judged: dict[str, Job],
    for_kl: dict[str, Job],
    scores: dict[str, Path],
    verdicts: dict[str, Path],
) -> dict[str, Any]:
    """The numbers of one contestant; what was not measured is left out."""
    settings = context.settings.evaluation
    name = contestant.name
    responses = read(judged[name].folder / "responses.parquet")
    lengths = np.array([len(tokens) for tokens in responses["tokens"].to_pylist()])
    row: dict[str, Any] = {
        "responses": str(judged[name].folder.relative_to(context.folder)),
        "mean_length": float(lengths.mean()),
        "cut_share": float(np.mean(responses["cut"].to_pylist())),
    }
    if name in verdicts:
        outcomes = read(verdicts[name] / "verdicts.parquet")["outcome"].drop_null().to_numpy()
        if len(outcomes):
            row["win_rate"] = asdict(win_rate(outcomes, settings.bootstrap_draws))
        row["verdicts"] = str(verdicts[name].relative_to(context.folder))
    if name in scores:
        drawn = read(for_kl[name].folder / "responses.parquet").slice(0, settings.kl_prompts)
        reference = read(scores[name] / "scores.parquet").slice(0, settings.kl_prompts)["logp"].to_numpy()
        sizes = np.array([len(tokens) for tokens in drawn["tokens"].to_pylist()])
        divergence = kl_divergence(drawn["logp"].to_numpy(), reference, sizes, settings.bootstrap_draws)
        row["kl"] = asdict(divergence)
    return row
