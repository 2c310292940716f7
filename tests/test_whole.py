"""Whole studies through the command line and from Python."""

import json
import re
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from raydaa.reporting.results import TrialResults
from raydaa.reporting.summary import summarize
from raydaa.store.artifacts import seal
from raydaa.store.tables import GENERATIONS, read
from raydaa.study import Study
from raydaa.trial_row import TrialRow
from tests.command import Command
from tests.studies import done, table

pytestmark = pytest.mark.slow
FAR = [0.03, 0.05]  # learning rates with which dpo goes too far
EDITED = f"[{{name: dpo, beta: [0.1]}}, {{name: orpo, beta: [0.5]}}, {{name: dpo, beta: [0.1], learning_rate: {FAR}}}]"
TRACKERS = {"mlflow": "{}", "wandb": "{project: trials, mode: offline}"}
TRACKERS = {name: settings for name, settings in TRACKERS.items() if find_spec(name)}


def test_the_terminal_shows_raydaas_own_lines(undisturbed: tuple[Path, str]) -> None:
    folder, output = undisturbed
    lines = output.splitlines()
    assert all(line.startswith("[") for line in lines[:-1]), output
    for stage in ("prepare", "sft", "reference", "align", "generate", "score", "judge", "report"):
        assert any(f"] {stage} " in line for line in lines), stage
    assert lines[-1] == f"{folder}/report/index.html: {summarize(TrialResults.load(folder))}"
    assert (folder / "logs" / "driver.log").stat().st_size > 0


def test_every_trial_has_its_record_and_figures(undisturbed: tuple[Path, str]) -> None:
    rows = TrialResults.load(undisturbed[0]).rows
    assert [row.state for row in rows].count("finished") == 2
    assert [row.state for row in rows].count("stopped") == 2
    for row in rows:
        assert row.training.validation_accuracy is not None
        assert 0 < row.training.validation_accuracy < 1
        if row.state == "stopped":
            assert row.training.step == 3  # 30 % of 10 steps
            continue
        assert row.training.step == row.trial.steps == 10
        assert row.kl is not None
        assert row.win_rate is not None
        assert row.figures is not None
        assert row.figures.win_rate is not None
        assert row.figures.win_rate.low <= row.win_rate <= row.figures.win_rate.high


def test_artefacts(undisturbed: tuple[Path, str]) -> None:
    folder, _ = undisturbed
    for name in ("study.yaml", "data.json", "rejects.jsonl", "trials.json", "evaluation.json", "optuna.db"):
        assert (folder / name).exists(), name
    for name in ("index.html", "tables.md", "trials.parquet", "pareto.png", "pareto.svg", "beta_curve.png"):
        assert (folder / "report" / name).stat().st_size > 0, name
    assert len(list((folder / "tensorboard").glob("*/events*"))) == 4
    assert not list(folder.glob("trials/*/checkpoint"))
    assert not (folder / "ray").exists()


def test_models_are_handed_over(undisturbed: tuple[Path, str]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    results = TrialResults.load(undisturbed[0])
    best = results.best("dpo")
    handed = undisturbed[0] / "best" / "dpo"
    assert best.checkpoint == str(handed)
    trained = undisturbed[0] / "trials" / best.key / "model"
    one, other = (AutoModelForCausalLM.from_pretrained(folder) for folder in (trained, handed))
    for mine, theirs in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    assert AutoTokenizer.from_pretrained(handed).chat_template
    assert json.loads((handed / "raydaa.json").read_text())["key"] == best.key
    assert "learning_rate" in (handed / "README.md").read_text()


def test_results_in_python(undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    results = TrialResults.load(undisturbed[0])
    frame = results.to_pandas()
    assert list(frame["method"]) == ["dpo", "dpo", "orpo", "orpo"]
    assert results.notes == ()  # generation and scoring agree to 1e-4 nats on a CPU
    (front,) = results.pareto_fronts().values()
    assert front
    assert max(results, key=results.quality).win_rate == max(row.win_rate or 0 for row in front)
    (compared,) = results.comparisons()
    assert compared.prompts == 40
    first, second = results.best(compared.one).win_rate, results.best(compared.other).win_rate
    assert compared.difference == pytest.approx((first or 0) - (second or 0))
    assert results.report(tmp_path / "again").exists()
    assert "## Methods against each other" in (tmp_path / "again" / "tables.md").read_text()
    with pytest.raises(ValueError, match="no trial of 'ipo' finished; the study has dpo, orpo"):
        results.best("ipo")


@pytest.mark.parametrize(("goal", "said"), [("edges", " tried, "), ("seeds", "with 3 seeds"), (None, "raydaa run")])
def test_a_study_leads_to_the_next(
    command: Command, undisturbed: tuple[Path, str], tmp_path: Path, goal: str | None, said: str
) -> None:
    wanted = [] if goal is None else ["--for", goal]
    written = tmp_path / "next.yaml"
    assert said in done(command.run("suggest", str(undisturbed[0]), *wanted, "--output", str(written)))
    study = Study.load(written)
    if goal == "edges":
        assert study.folder == undisturbed[0]  # goes on there
        assert len(study.settings.search.methods) > 2
    if goal == "seeds":
        assert study.settings.search.seeds == (0, 1, 2)
        assert study.folder != undisturbed[0]
    assert "steps:" in done(command.run("plan", str(written)))


def test_finalists_are_compared_by_seeds_that_they_were_not_chosen_by(
    command: Command, undisturbed: tuple[Path, str]
) -> None:
    folder = command.folder / "finalists"
    shutil.copytree(undisturbed[0], folder)
    arguments = ["run", str(command.folder / "micro.yaml"), "--output", str(folder)]
    arguments += ["--set", "search.finalists={seeds: 2}", "--set", "search.seeds=[0, 1]"]
    arguments += ["--set", "evaluation.benchmarks=[validation, {name: tldr, num: 20}]"]
    before = {row.key for row in TrialResults.load(folder)}
    keys = trained(folder, lambda: done(command.run(*arguments)))
    results = TrialResults.load(folder)
    finalists = [row for row in results if row.trial.finalist]
    assert {row.key for row in results} == before | keys
    assert sorted((row.title, row.seed) for row in finalists) == [("dpo", 2), ("dpo", 3), ("orpo", 2), ("orpo", 3)]
    best = results.best_of_each()
    assert [row.seeds for row in best] == [(2, 3), (2, 3)]
    assert {row.key for row in results if "tldr" in row.benchmarks} == {row.key for row in finalists}
    for row in best:
        rates = [trial.win_rate or 0.0 for trial in finalists if trial.title == row.title]
        assert row.win_rate == pytest.approx(sum(rates) / 2)
        assert results.optimism_of(row) == 0.0
    assert [row.seeds for row in results.chosen()] == [(0, 1), (0, 1)]
    assert results.spread is not None
    assert "trained again with 2 fresh seeds" in (folder / "report" / "index.html").read_text()
    assert trained(folder, lambda: makes_nothing_again(folder, lambda: done(command.run(*arguments)))) == set()


def test_report_is_made_again(command: Command, undisturbed: tuple[Path, str]) -> None:
    folder, output = undisturbed
    shutil.rmtree(folder / "report")
    assert done(command.run("report", str(folder))).splitlines()[-1] == output.splitlines()[-1]
    assert (folder / "report" / "index.html").exists()


@pytest.fixture(scope="module")
def edited(command: Command, undisturbed: tuple[Path, str]) -> tuple[Path, list[str], set[str]]:
    """The study with a β more, and with the trackers that are installed: its folder, its command, and keys of the
    trials that were trained for it."""
    folder = command.folder / "edited"
    shutil.copytree(undisturbed[0], folder)
    arguments = ["run", str(command.folder / "micro.yaml"), "--output", str(folder)]
    arguments += ["--set", f"search.methods={EDITED}"]
    for name, settings in TRACKERS.items():
        arguments += ["--set", f"tracking.{name}={settings}"]
    return folder, arguments, trained(folder, lambda: done(command.run(*arguments)))


def test_trackers_have_a_run_for_each_trial(edited: tuple[Path, list[str], set[str]]) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    pytest.importorskip("wandb", reason="wandb is not installed")
    folder, _, keys = edited
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("micro")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    rows = {row.label: row for row in TrialResults.load(folder) if row.key in keys}
    assert len(rows) == 2
    assert runs.keys() == rows.keys()
    for label, row in rows.items():
        assert float(runs[label].data.params["point/learning_rate"]) == row.learning_rate
        assert float(runs[label].data.params["point/parameters/beta"]) == row.beta
        metrics = runs[label].data.metrics
        assert metrics["validation/loss"] == pytest.approx(row.training.validation_loss)
        assert metrics["step"] == row.training.step
    logs = list((folder / "wandb").glob("wandb/offline-run-*/run-*.wandb"))
    assert len(logs) == len(rows)
    for label in rows:
        assert any(label.encode() in log.read_bytes() for log in logs)


def test_edited_study_keeps_what_is_the_same(
    command: Command, undisturbed: tuple[Path, str], edited: tuple[Path, list[str], set[str]]
) -> None:
    """The old trials stay, only the new ones are trained. The worse finisher's model is removed, and made again when
    it has to answer anew, not when the study is run again."""
    folder, arguments, keys = edited
    assert keys == {row.key for row in rows_with(folder, FAR)}
    results = TrialResults.load(folder)
    old = {row.key: row for row in TrialResults.load(undisturbed[0])}
    assert len(results) == 6
    for row in results:
        if row.key in old:
            assert (row.state, row.win_rate, row.kl) == (old[row.key].state, old[row.key].win_rate, old[row.key].kl)
    kept = {row.key for row in results.worth_keeping()}
    removed = {row.key for row in results if row.state == "finished"} - kept
    assert {path.parent.name for path in folder.glob("trials/*/model")} == kept
    assert removed
    for before in undisturbed[0].glob("trials/*/model/model.safetensors"):
        if before.parent.parent.name in kept:
            assert (folder / before.relative_to(undisturbed[0])).stat().st_mtime_ns == before.stat().st_mtime_ns
    assert all(row.win_rate is not None for row in results if row.key in removed)
    assert trained(folder, lambda: makes_nothing_again(folder, lambda: done(command.run(*arguments)))) == set()
    assert trained(folder, lambda: done(command.run(*arguments, "--set", "generation.seed=1"))) == removed


def makes_nothing_again(folder: Path, run: Callable[[], str]) -> None:
    """Stages keep what they find."""
    files = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/**/*") if "report" not in path.parts}
    before = table(folder)
    kept = re.findall(r"\] (\w+) .*kept from before", run())
    assert {"prepare", "sft", "reference", "generate", "score", "judge"} <= set(kept)
    assert table(folder) == before
    changed = [path for path, time in files.items() if path.exists() and path.stat().st_mtime_ns != time]
    assert [path for path in changed if path.suffix in (".safetensors", ".parquet", ".jsonl")] == []


def rows_with(folder: Path, rates: list[float]) -> list[TrialRow]:
    return [row for row in TrialResults.load(folder) if row.learning_rate in rates]


def trained(folder: Path, run: Callable[[], object]) -> set[str]:
    """Keys of the trials that ``run`` hands out."""

    def written() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("trials/*/settings.json")}

    before = written()
    run()
    return {key for key, time in written().items() if before.get(key) != time}


def test_kl_is_the_scorers_alone_where_generation_says_otherwise(
    command: Command, undisturbed: tuple[Path, str]
) -> None:
    """As on GPUs, where two engines round differently and what one draws is likelier to it."""
    folder = command.folder / "biased"
    shutil.copytree(undisturbed[0], folder)
    for path in folder.glob("generations/*/responses.parquet"):
        rows = read(path).to_pylist()
        GENERATIONS.write(path.parent, [{**row, "logp": row["logp"] + 0.5} for row in rows])
        seal(path.parent)
    output = done(command.run("run", str(command.folder / "micro.yaml"), "--output", str(folder)))
    assert re.search(r"\] score +kept from before", output)
    before, after = ({row.key: row.kl for row in TrialResults.load(place)} for place in (undisturbed[0], folder))
    assert after == pytest.approx(before, abs=1e-4)
    (note,) = TrialResults.load(folder).notes
    assert note.startswith("Generation and scoring differ by 0.5 nats per response")
    assert note.endswith("KL is of the scorer's alone.")


def test_status_names_what_the_report_names(command: Command, undisturbed: tuple[Path, str]) -> None:
    folder = undisturbed[0]
    assert summarize(TrialResults.load(folder)) in done(command.run("status", str(folder))).splitlines()


def test_stages_say_what_is_done_and_what_would_run(command: Command, undisturbed: tuple[Path, str]) -> None:
    """Asked of the outputs: of a finished study, of one whose responses are gone, and of one that never ran."""
    folder = command.folder / "surveyed"
    shutil.copytree(undisturbed[0], folder)

    def survey(*more: str) -> dict[str, dict[str, object]]:
        study = str(command.folder / "micro.yaml")
        told = json.loads(done(command.run("stages", study, "--output", str(folder), "--json", *more)))
        return {each["stage"]["name"]: each for each in told}

    every = survey()
    assert all(each["done"] == each["total"] for each in every.values())
    expected = {
        "prepare": 3,
        "sft": 1,
        "reference": 1,
        "align": 4,
        "generate": 3,
        "score": 2,
        "judge": 3,
        "measure": 1,
        "harness": 0,
        "report": 1,
    }
    assert expected.items() <= {name: stage["total"] for name, stage in every.items()}.items()
    shutil.rmtree(next(folder.glob("generations/*")))
    more = survey("--set", "search.seeds=[0,1]")
    assert (more["align"]["done"], more["align"]["total"], more["generate"]["waits_for"]) == (4, 8, "align")
    fewer = survey()
    assert (fewer["generate"]["done"], fewer["judge"]["total"], fewer["judge"]["waits_for"]) == (2, None, "generate")
    longer = survey("--set", "sft.epochs=7")
    assert (longer["prepare"]["done"], longer["sft"]["done"], longer["sft"]["total"]) == (3, 0, 1)
    assert longer["align"]["waits_for"] == "sft"
    for name in ("trials", "sweep.json"):
        (folder / name).rename(folder / f"no-{name}")
    none = survey()
    assert (none["align"]["done"], none["align"]["total"]) == (0, 4)
    for name in ("trials", "sweep.json"):
        (folder / f"no-{name}").rename(folder / name)
    text = done(command.run("stages", str(command.folder / "micro.yaml"), "--output", str(folder)))
    assert "generate   would make 1 of 3" in text
