"""What is known of models prompt by prompt, or pair by pair, as arrays that statistics are made of."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from raydaa.evaluation.figures import BenchmarkFigures
from raydaa.store.study_folder import TrialFolder
from raydaa.store.tables import HELD_OUT, VERDICTS, column

ByPrompt = dict[str, float]  # 1 for a win, ½ for a tie, 0 for a loss, NaN where one can't be read; or minus a loss


def read_outcomes(study: Path, figures: BenchmarkFigures | None) -> ByPrompt:
    """A model's outcomes on a benchmark; none where nobody judged it."""
    folder = None if figures is None or figures.verdicts is None else study / figures.verdicts
    if folder is None or not VERDICTS.is_in(folder):
        return {}
    return by_prompt(VERDICTS.read(folder))


def by_prompt(verdicts: pa.Table) -> ByPrompt:
    """The outcomes of a table of verdicts."""
    outcomes = verdicts["outcome"].to_numpy()  # NaN for null
    return dict(zip(column(verdicts, "prompt_id"), outcomes.tolist(), strict=True))


def read_held_out(trial: TrialFolder) -> ByPrompt:
    """How good a trial's model is at each held-out pair, where nobody judges: minus its preference loss in nats."""
    if not HELD_OUT.is_in(trial.path):
        return {}
    table = HELD_OUT.read(trial.path)
    return {str(row): -loss for row, loss in zip(column(table, "row"), column(table, "preference_loss"), strict=True)}


def stack(settings: Sequence[Sequence[ByPrompt]]) -> np.ndarray:
    """Each setting's outcomes by seed, ``(settings, seeds, prompts)``, NaN where one was not judged."""
    prompts: dict[str, None] = {}
    for seeds in settings:
        for outcomes in seeds:
            prompts |= dict.fromkeys(outcomes)
    array = np.full((len(settings), max(map(len, settings), default=0), len(prompts)), np.nan)
    for number, seeds in enumerate(settings):
        for seed, outcomes in enumerate(seeds):
            array[number, seed] = [outcomes.get(name, np.nan) for name in prompts]
    return array
