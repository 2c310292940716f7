"""The best models, handed over: whole folders that any library loads, below ``best``."""

import shutil
from pathlib import Path
from typing import Any

from raydaa.results import TrialResults
from raydaa.store.artifacts import MANIFEST, intact, make_folder, read_json, write_json, write_text
from raydaa.store.study_folder import CARD
from raydaa.trial_row import TIME_COLUMNS, TrialRow


def export_best(results: TrialResults) -> None:
    """Copy the best model of each method, with a README; whole or not at all."""
    for row in results.best_of_each():
        target = results.at.best(row.title)
        figures = _figures(results, row)
        if read_json(target / CARD) == figures and intact(target):
            continue
        shutil.rmtree(target, ignore_errors=True)

        def fill(temporary: Path, row: TrialRow = row, figures: dict[str, Any] = figures) -> None:
            shutil.copytree(
                Path(str(row.checkpoint)), temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST)
            )
            write_json(temporary / CARD, figures)
            write_text(temporary / "README.md", _card(results, row, figures))

        make_folder(target, fill)


def _card(results: TrialResults, row: TrialRow, figures: dict[str, Any]) -> str:
    study = results.at.settings
    lines = [f"- {name}: {value}" for name, value in figures.items() if value is not None]
    settings = study.read_text(encoding="utf-8") if study.exists() else ""
    return (
        f"# {results.folder.name}: best {row.title}\n\nA causal language model aligned with {row.title} by raydaa, "
        f"starting from {row.init}.\n\n" + "\n".join(lines) + f"\n\n## Study\n\n```yaml\n{settings}```\n"
    )


def _figures(results: TrialResults, row: TrialRow) -> dict[str, Any]:
    """What a model's card says: everything but what differs from run to run, and where things lie."""
    left_out = (*TIME_COLUMNS, "checkpoint", "verdicts", "benchmarks", "beta")
    figures = {name: value for name, value in row.columns().items() if name not in left_out}
    without = None if row.rate is None else row.rate.value - results.optimism_of(row)
    return {**figures, "seeds": list(row.seeds), "win_rate_without_optimism": without}
