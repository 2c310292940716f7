"""Methods that someone else wrote: found, checked, named, and run only where that is allowed."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raydaa import Method, PairLogps, Study
from raydaa.algorithms.catalog import code_hash, display_name, is_known, loss, method_class, register
from raydaa.errors import InputError
from raydaa.settings.search import MethodSettings
from raydaa.testing import check_loss
from tests.studies import micro

HERE = "tests.algorithms.test_own_methods"


@dataclass(frozen=True, kw_only=True)
class Exponential(Method):
    """exp(−β (r_w − r_l)), kept finite"""

    beta: float
    ceiling: float = 5.0
    name = "exponential"
    ranking = "pairwise"
    score = "ratio"

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        return torch.exp((self.beta * (rejected - chosen)).clamp(max=self.ceiling))


@dataclass(frozen=True, kw_only=True)
class Backwards(Exponential):
    name = "backwards"

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        return super().per_pair(rejected, chosen, logps)


@dataclass(frozen=True, kw_only=True)
class Overflowing(Exponential):
    name = "overflowing"

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        return torch.exp(self.beta * (rejected - chosen))


@dataclass(frozen=True, kw_only=True)
class Detached(Exponential):
    name = "detached"

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        return super().per_pair(chosen, rejected.detach(), logps)


@dataclass(frozen=True, kw_only=True)
class Mixed(Exponential):
    name = "mixed"

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        value = super().per_pair(chosen, rejected, logps)
        return value / value.mean().detach()


@dataclass(frozen=True, kw_only=True)
class Averaged(Exponential):
    name = "averaged"

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        return super().per_pair(chosen, rejected, logps).mean()


@dataclass(frozen=True, kw_only=True)
class Forgetful(Exponential):
    name = "forgetful"
    needs_reference = False


class Untyped(Method):
    pass


class Impostor(Exponential):
    name = "dpo"


class Twin(Exponential):
    name = "exponential"


def test_a_sound_loss_passes() -> None:
    check_loss(Exponential)
    check_loss(f"{HERE}:Exponential", beta=0.3, ceiling=2.0)


@pytest.mark.parametrize(
    ("cls", "law"),
    [
        (Backwards, "pushes chosen up or is 0"),
        (Overflowing, "finite in float32"),
        (Detached, "gradient of rejected is the slope"),
        (Mixed, "does not depend on the pairs beside it"),
        (Averaged, r"loss must be \(pairs,\)"),
        (Forgetful, "needs_reference is False"),
    ],
)
def test_a_loss_that_breaks_a_law_is_told_which(cls: type[Method], law: str) -> None:
    with pytest.raises(AssertionError, match=law) as error:
        check_loss(cls)
    assert "\n" not in str(error.value)


def test_names_and_classes_lead_to_the_same_method() -> None:
    name = register(Exponential)
    assert name == f"{HERE}:Exponential"
    assert is_known(name)
    assert method_class(name) is Exponential
    assert loss(name, beta=0.2) == loss(Exponential, beta=0.2) == Exponential(beta=0.2)
    assert display_name(name, {"length_normalized": True}) == "exponential (per token)"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.such.module:Loss", "can't be imported: No module named"),
        (f"{HERE}:Nothing", "can't be imported: .* has no attribute 'Nothing'"),
        (f"{HERE}:micro", "is not a method; derive a class from raydaa.Method"),
        (f"{HERE}:Untyped", "Untyped.ranking: is not set; choose from pairwise, pointwise"),
        (f"{HERE}:Impostor", "calls itself 'dpo', which is built in"),
        ("raydaa.algorithms.catalog:METHODS", "is not a method"),
    ],
)
def test_what_is_no_method_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method_class(name)


def search(*methods: dict[str, Any]) -> dict[str, Any]:
    return {"learning_rate": 1e-3, "methods": list(methods)}


def test_code_from_a_study_file_runs_only_where_it_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "unseen.py").write_text("raise SystemExit('this must not run')")
    entry = {"name": "unseen:Loss", "beta": [0.1]}
    with pytest.raises(InputError, match=r"search.methods\[0\].name: 'unseen:Loss' is code of your own; add --allow"):
        Study.from_tree(micro(search=search(entry)))
    assert "unseen" not in sys.modules


def test_a_class_stands_for_its_name_in_python() -> None:
    study = Study.from_tree(micro(search=search({"name": Exponential, "beta": [0.1], "ceiling": [3.0]})))
    assert study.settings.search.methods[0].name == f"{HERE}:Exponential"
    other = study.with_values({"search.methods[0].name": Overflowing})
    assert other.settings.search.methods[0].name == f"{HERE}:Overflowing"
    with pytest.raises(InputError, match=r"methods\[0\].gamma: unknown key for exponential"):
        Study.from_tree(micro(search=search({"name": Exponential, "beta": [0.1], "gamma": 1.0})))
    with pytest.raises(InputError, match="is not a method"):
        Study.from_tree(micro(search=search({"name": dict, "beta": [0.1]})))


def test_numbers_of_numpys_and_paths_are_plain_ones() -> None:
    study = Study.from_tree(micro(search=search({"name": "dpo", "beta": list(np.logspace(-3, 0, 4))})))
    assert study.settings.search.methods[0].parameters["beta"] == pytest.approx((0.001, 0.01, 0.1, 1.0))
    assert study.with_values({"storage.study": Path("somewhere")}).folder.name == "somewhere"
    with pytest.raises(InputError, match=r"study: .*represent"):
        Study.from_tree(micro(name=object()))


def test_two_methods_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match=r"methods\[1\].name: .* both call themselves 'exponential'"):
        Study.from_tree(micro(search=search({"name": Exponential, "beta": 0.1}, {"name": Twin, "beta": 0.1})))


def test_identity_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed source is another method; a built-in one has no identity of its own."""
    assert code_hash("dpo") is None
    assert code_hash(register(Exponential)) == code_hash(register(Overflowing))  # one module, one source
    script = "import sys; sys.path.insert(0, sys.argv[1]); from raydaa.algorithms.catalog import code_hash; "
    script += "print(code_hash('theirs:Theirs'))"

    def hashed(source: str) -> str:
        (tmp_path / "theirs.py").write_text(source)
        run = [sys.executable, "-B", "-c", script, str(tmp_path)]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout

    source = "from raydaa import Method\nclass Theirs(Method):\n    ranking, score = 'pairwise', 'logp'\n"
    assert hashed(source) == hashed(source)
    assert hashed(source) != hashed(source + "    scale = 2\n")


def test_settings_know_the_built_in_ones_without_help() -> None:
    assert MethodSettings.model_validate({"name": "kto", "beta": [0.1], "desirable_weight": [1.0, 2.0]})
    assert MethodSettings.model_validate({"name": "slic_hf", "delta": [1.0, 10.0]})
