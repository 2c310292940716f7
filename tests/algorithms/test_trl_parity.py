"""The same losses in TRL, where it has them: its formulas on the same log-probabilities, or its trainers whole."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raydaa import PairLogps, loss
from raydaa.data.packing import pack_responses
from raydaa.testing import draw_pairs
from raydaa.training.model import Policy, load_model
from raydaa.training.tokenizer import load_tokenizer
from tests.models import make_llama

pytest.importorskip("trl", reason="TRL is not installed")
TEXTS = ["a cat and a dog", "the dog runs", "no cats here at all", "one two three four five"] * 4
ROWS = [
    {"prompt": "a cat", "chosen": " and a dog runs here", "rejected": " no"},
    {"prompt": "the dog", "chosen": " runs", "rejected": " one two three four five and no cats"},
    {"prompt": "no cats here", "chosen": " at all", "rejected": " four five"},
    {"prompt": "one", "chosen": " two three four", "rejected": " the the the"},
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A policy and a reference of one family, with one tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    policy, reference = make_llama(folder / "policy", TEXTS), make_llama(folder / "reference", TEXTS)
    model = load_model(reference)
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
            weight.add_(0.2 * weight.abs().mean() * noise)
    model.save_pretrained(reference)
    return policy, reference


def logps_of(batch: dict[str, torch.Tensor], folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums and token counts of each row of one of TRL's batches, by our scorer."""
    policy = Policy(load_model(folder)).eval()
    sums, sizes = [], []
    for ids, mask, completion in zip(
        batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True
    ):
        prompt, response = ids[(mask == 1) & (completion == 0)].numpy(), ids[completion == 1].numpy()
        with torch.no_grad():
            sums.append(policy(pack_responses([(prompt, [response], True)])))
        sizes.append(float(len(response)))
    return torch.cat(sums), torch.tensor(sizes)


def settings(folder: Path, **values: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        **values,
    }


DPO_TRAINER = [
    ("sigmoid", "dpo", {}, 0.0),
    ("sigmoid_norm", "dpo", {"length_normalized": True}, 0.0),
    ("hinge", "rso", {}, 0.0),
    ("ipo", "ipo", {"length_normalized": True}, 0.0),
    ("nca_pair", "nca", {}, 0.0),
    ("apo_zero", "apo_zero", {}, 1.0),  # TRL's carries a constant 1
]


@pytest.mark.parametrize(("theirs", "ours", "parameters", "constant"), DPO_TRAINER)
def test_dpo_trainers_losses(
    models: tuple[Path, Path], tmp_path: Path, theirs: str, ours: str, parameters: dict[str, Any], constant: float
) -> None:
    """One batch through TRL's trainer from text on, and through our scorer and loss."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    policy, reference = models
    trainer = DPOTrainer(
        load_model(policy),
        load_model(reference),
        args=DPOConfig(**settings(tmp_path, beta=0.3, loss_type=[theirs])),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=load_tokenizer(policy),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    expected = trainer.compute_loss(trainer.model, dict(batch))
    (sums, sizes), (references, _) = logps_of(batch, policy), logps_of(batch, reference)
    assert (sums - references).abs().min() > 1e-3
    pairs = PairLogps(*sums.chunk(2), *sizes.chunk(2), *references.chunk(2))
    found = loss(ours, beta=0.3, **parameters)(pairs).loss.mean() + constant
    assert found.item() == pytest.approx(expected.item(), abs=2e-5)


def test_kto_trainers_loss(models: tuple[Path, Path], tmp_path: Path) -> None:
    """TRL averages over responses and takes its KL from the responses of one batch, each shifted by one."""
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    policy, reference = models
    rows = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for side in ("chosen", "rejected")
        for row in ROWS
    ]
    trainer = KTOTrainer(
        load_model(policy),
        load_model(reference),
        args=KTOConfig(**settings(tmp_path, beta=0.3, per_device_train_batch_size=8)),
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(policy),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    expected = trainer.compute_loss(trainer.model, dict(batch))
    mismatched = {name.removeprefix("KL_"): value for name, value in batch.items() if name.startswith("KL_")}
    kl = (logps_of(mismatched, policy)[0] - logps_of(mismatched, reference)[0]).mean().clamp(min=0)
    (sums, sizes), (references, _) = logps_of(batch, policy), logps_of(batch, reference)
    labels = torch.as_tensor(batch["label"], dtype=torch.bool)
    sides = [column[rows] for column in (sums, sizes, references) for rows in (labels, ~labels)]
    found = loss("kto", beta=0.3)(PairLogps(*sides, kl=kl)).loss.mean() / 2
    assert found.item() == pytest.approx(expected.item(), abs=2e-5)


def close(theirs: tuple[torch.Tensor, ...], ours: torch.Tensor) -> None:
    torch.testing.assert_close(theirs[0], ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_cpo_trainers_formulas(beta: float) -> None:
    from trl.experimental.cpo import CPOTrainer

    logps = draw_pairs(32, seed=3)
    trl = SimpleNamespace(beta=beta, alpha=0.0, label_smoothing=0.0, accelerator=SimpleNamespace(device="cpu"))
    trl.loss_type = "sigmoid"
    theirs = CPOTrainer.cpo_loss(trl, logps.chosen, logps.rejected)
    close(theirs, loss("cpo", beta=beta, alpha=0.0)(logps).loss)
    trl.loss_type, trl.simpo_gamma = "simpo", 0.3
    averages = logps.chosen / logps.chosen_length, logps.rejected / logps.rejected_length
    close(CPOTrainer.cpo_loss(trl, *averages), loss("simpo", beta=beta, gamma_beta_ratio=0.3 / beta)(logps).loss)
    trl.loss_type = "hinge"
    theirs = CPOTrainer.cpo_loss(trl, logps.chosen, logps.rejected)
    close(theirs, beta * loss("slic_hf", delta=1 / beta, alpha=0.0)(logps).loss)


@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_orpo_trainers_formula(weight: float) -> None:
    """What TRL calls beta is a weight outside, and its loss enters with a minus."""
    from trl.experimental.orpo import ORPOTrainer

    logps = draw_pairs(32, seed=3)
    averages = logps.chosen / logps.chosen_length, logps.rejected / logps.rejected_length
    trl = SimpleNamespace(beta=weight, accelerator=SimpleNamespace(device="cpu"))
    theirs = ORPOTrainer.odds_ratio_loss(trl, *averages)
    torch.testing.assert_close(-theirs[0], weight * loss("orpo", beta=1.0)(logps).loss, rtol=1e-4, atol=1e-5)
