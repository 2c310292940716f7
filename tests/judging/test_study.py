"""A study whose judge is a language model behind an endpoint."""

import json
import shutil
from pathlib import Path

import pytest

from raydaa.compat import imports
from raydaa.errors import InputError
from raydaa.pipeline import checks
from raydaa.results import TrialResults
from raydaa.study import Study
from tests.command import Command
from tests.judging.server import Reply, completion, serving
from tests.studies import done, micro

pytest.importorskip("openai", reason="openai is not installed")


@pytest.mark.slow
def test_a_judge_that_sees_only_the_order_is_told_of(command: Command, undisturbed: tuple[Path, str]) -> None:
    """It is found out, its verdicts cancel out, and no other stage runs again."""
    folder = command.folder / "judged"
    shutil.copytree(undisturbed[0], folder)
    with serving(lambda number, body: Reply(completion("Winner: A"))) as server:
        judge = {"kind": "openai", "model": "judge", "base_url": server.url, "prompt": "tldr", "api_key_env": None}
        arguments = ("--output", str(folder), "--set", f"evaluation.judge={json.dumps(judge)}")
        output = done(command.run("run", str(command.folder / "micro.yaml"), *arguments))
    assert "] judge     120 verdicts" in output
    assert 0 < len(server.asked) <= 240  # 3 models, 40 prompts, both orders; what is the same is asked once
    results = TrialResults.load(folder)
    assert {row.win_rate for row in results if row.state == "finished"} == {50.0}
    assert "index.html: nothing was told apart: every prompt is a tie on validation (judge" in output.splitlines()[-1]
    assert "50.0" not in output.splitlines()[-1]
    assert any("favours the response it sees first 100.0 % [100.0, 100.0]" in note for note in results.notes)
    assert any("which is a bias by position; in both orders it says the same of 0 %" in note for note in results.notes)
    assert "favours the response" in (folder / "report" / "index.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("said", "changes", "message"),
    [
        ("I like both.", [], "verdicts can be read, e.g. 'I like both.'; use another judge"),
        ("Winner: A", ["search.learning_rate=[1.0e-12]", "generation.temperature=0"], "response equals the baseline's"),
    ],
)
def test_figures_that_would_say_nothing_are_not_given(
    command: Command, undisturbed: tuple[Path, str], said: str, changes: list[str], message: str
) -> None:
    """A judge that can't be understood, and models that answer as the baseline does: the study stops instead."""
    folder = command.folder / f"nothing-{len(changes)}"
    shutil.copytree(undisturbed[0], folder)
    with serving(lambda number, body: Reply(completion(said))) as server:
        judge = {"kind": "openai", "model": "judge", "base_url": server.url, "prompt": "tldr", "api_key_env": None}
        settings = [f"evaluation.judge={json.dumps(judge)}", "search.methods=[{name: dpo, beta: [0.1]}]"]
        given = [part for item in [*settings, "data.prompts.num=4", *changes] for part in ("--set", item)]
        result = command.run("run", str(command.folder / "micro.yaml"), "--output", str(folder), *given)
    assert result.returncode == 2
    assert message in result.stderr
    assert "what is judged is kept" in result.stderr or "use another judge" in result.stderr


def test_a_judge_that_could_not_be_asked_is_said_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = {"kind": "openai", "model": "judge", "api_key_env": "RAYDAA_NO_SUCH_KEY"}
    settings = Study.from_tree(micro(evaluation={"judge": judge})).settings
    with pytest.raises(InputError, match=r"api_key_env: RAYDAA_NO_SUCH_KEY is not set, or empty"):
        checks.check_models(settings, tmp_path)
    monkeypatch.setattr(imports, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"openai is not installed; pip install 'raydaa\[judge\]'"):
        checks.check_models(settings, tmp_path)
