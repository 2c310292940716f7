"""A plan in a few lines."""

from collections.abc import Iterator

from raydaa.planning.values import DiskPlan, JudgingPlan, MemoryPlan, Plan, SavingPlan, WorkPlan


def render_plan(plan: Plan) -> str:
    """The lines that `raydaa plan` prints."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    yield f"{plan.name}: {sum(trial.count for trial in plan.trials)} trials"
    yield from (f"  {trial.count} {trial.title} from {trial.init}" for trial in plan.trials)
    steps = plan.steps
    counted = f"{steps.planned} of {steps.without_early_stopping}, " if steps.sized else ""
    share = steps.planned / steps.without_early_stopping
    yield f"steps: {counted}{share:.0%} of those without early stopping; {steps.trials_finished} trials finish"
    if steps.finalists:
        more = f", {steps.finalist_steps} steps more" if steps.sized else ""
        yield f"finalists: {steps.finalists} trials of the methods' best settings with fresh seeds{more}"
    if steps.brackets_of_one:
        alone = f"{steps.brackets_of_one} of {steps.brackets} brackets hold"
        which = "every bracket holds" if steps.brackets_of_one == steps.brackets else alone
        yield (
            f"early stopping: {which} one setting, which nothing can stop; search.early_stopping.within: method has "
            "larger ones"
        )
    if plan.data is not None:
        yield "data: " + ", ".join(f"{count} {name}" for name, count in plan.data.rows.items())
        yield from (f"  problem: {reason}: {count} rows rejected" for reason, count in plan.data.rejected.items())
        yield from (f"  note: {count} {note}" for note, count in plan.data.notes.items())
    yield from plan.problems
    if plan.memory is not None:
        yield from _memory(plan.memory)
    if plan.work is not None:
        yield from _work(plan.work)
    if plan.saving is not None:
        yield _saving(plan.saving)
    yield from map(_judging, plan.judging)
    if plan.disk is not None:
        yield _disk(plan.disk)


def _memory(memory: MemoryPlan) -> Iterator[str]:
    layout = f"{memory.workers} workers" + ("" if memory.zero_stage is None else f", ZeRO {memory.zero_stage}")
    parts = {"weights": memory.weights, "gradients": memory.gradients, "optimizer": memory.optimizer}
    parts["activations and logits"] = memory.activations
    sizes = ", ".join(f"{name} {size_of(size)}" for name, size in parts.items())
    yield (
        f"memory: {size_of(memory.total)} on each of {layout}, {memory.precision}, {memory.tokens} tokens at a time "
        f"({sizes}); the model has {memory.parameters:,} parameters"
    )
    if memory.card_memory is None or memory.most_tokens is None:
        return
    fits = "does not fit"
    if memory.most_tokens >= memory.tokens:
        fits = f"fits, up to {memory.most_tokens} tokens at a time"
    yield f"  {memory.card} has {size_of(memory.card_memory)}: {fits}"


def _work(work: WorkPlan) -> Iterator[str]:
    if work.total_hours is None:
        needed = work.operations["sft"] + work.operations["reference"] + work.operations["trials"]
        yield f"work: {needed:.2e} operations; name scaling.accelerator to have it in hours"
        return
    yield (
        f"GPU-hours: about {work.total_hours:.3g} at {work.utilisation:.0%} of {work.card}'s rate, which is an "
        "assumption; generation and judging come on top"
    )
    yield from (f"  {value:.3g} {name}" for name, value in work.hours.items())
    if work.cost is not None:
        yield f"  {work.cost:,.2f} at {work.price:g} a GPU-hour"


def _saving(saving: SavingPlan) -> str:
    return (
        f"saving: {saving.checkpoints} checkpoints of {size_of(saving.checkpoint_bytes)} in a trial's "
        f"{saving.trial_minutes:.0f} min, {saving.share:.0%} of them at {size_of(saving.bytes_per_second)} a second"
    )


def _judging(judging: JudgingPlan) -> str:
    paid = "" if judging.cost is None else f": {judging.cost:,.2f}"
    more = ""
    if judging.more_prompts is not None:
        more = f"; orders: 1 on {judging.more_prompts} prompts costs the same and is surer, for the source has them"
    return (
        f"judging: {judging.benchmark}: {judging.games:,} games of {judging.models} models; "
        f"{judging.sent / 1e6:,.1f} million tokens are sent at most, about {judging.written / 1e6:,.2f} million "
        f"written{paid}{more}"
    )


def _disk(disk: DiskPlan) -> str:
    return (
        f"disk: {size_of(disk.peak)} at most: {disk.trained_models} trained models, {disk.handed_over} of them copied "
        f"to be handed over, {disk.waiting_checkpoints} checkpoints that wait at rungs, and those of "
        f"{disk.running_trials} running trials"
    )


def size_of(amount: float) -> str:
    """``2.5e9`` → ``2.5 GB``."""
    unit, name = (1e9, "GB") if amount >= 1e8 else (1e6, "MB")
    return f"{amount / unit:.1f} {name}"
