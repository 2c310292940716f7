"""What Optuna says of a search: which setting mattered, and how settings and results go together."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState
from optuna.visualization.matplotlib import plot_parallel_coordinate, plot_param_importances

from raydaa.reporting.with_matplotlib import literal
from raydaa.store.study_folder import StudyFolder

QUALITY = "held-out preference loss"  # what the samplers were told
FEWEST = 8  # trials with a value for which an importance says anything


def drawers(folder: StudyFolder) -> dict[str, Callable[[], Figure]]:
    """A figure's drawer by its name, at most two for each search of the study in ``folder``."""
    database = folder.optuna
    if not database.exists():
        return {}
    drawers: dict[str, Callable[[], Figure]] = {}
    storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
    for number, name in enumerate(optuna.get_all_study_names(storage)):
        study = optuna.load_study(study_name=name, storage=storage)
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        varied = _varied(trials)
        if varied and len(trials) >= FEWEST:
            drawers[f"importance_{number}"] = partial(_importance, study, varied)
        if varied:
            drawers[f"parallel_{number}"] = partial(_parallel, study, varied)
    return drawers


def _varied(trials: list[optuna.trial.FrozenTrial]) -> list[str]:
    """Settings with more than one value; none where the results are all alike."""
    if len({trial.value for trial in trials}) < 2:
        return []
    return [name for name in trials[0].params if len({trial.params[name] for trial in trials}) > 1]


def _importance(study: optuna.Study, varied: list[str]) -> Figure:
    axes = _plotted(plot_param_importances, study, varied)
    axes.get_legend().remove()
    return _sized(axes.figure, f"{study.study_name}: importance for the {QUALITY}", 1.2 + 0.4 * len(varied))


def _parallel(study: optuna.Study, varied: list[str]) -> Figure:
    axes = _plotted(plot_parallel_coordinate, study, varied)
    axes.collections[0].set_cmap("viridis")  # its own begins with white
    return _sized(axes.figure, study.study_name, 3.2)


def _plotted(plot: Callable[..., Any], study: optuna.Study, varied: list[str]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return plot(study, params=varied, target_name=QUALITY)


def _sized(figure: Figure, title: str, height: float) -> Figure:
    plt.close(figure)  # Optuna draws with pyplot: a notebook would show it a second time
    figure.set_size_inches(7, height)
    figure.axes[0].set_title("")
    figure.axes[0].set_title(literal(title), loc="left")
    figure.set_layout_engine("tight")
    return figure
