"""On a GPU: ``pytest -m gpu``. What the tests of CPUs say of the same code, and what only a card can."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydaa.data.packing import PairTable, ResponseTable, pack_responses
from raydaa.generation.sample import Sampling, generate
from raydaa.store.tables import read
from raydaa.training import launch, workers
from raydaa.training.model import Policy
from raydaa.training.reference import Scoring, fixed_model, make_policy, score, score_share, two_scorers
from raydaa.training.run import Run
from raydaa.training.token_budget import measure
from tests.training.runs import Make, changed, losses
from tests.training.test_scoring import FAMILIES, SHORT, Pair, alone, long_pairs
from tests.training.test_scoring import make as make_family

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use is here"),
]

EXACT, HALF = {"rel": 1e-4, "abs": 1e-3}, {"rel": 3e-2, "abs": 0.3}  # nats of a response
LOSS_IN_BF16 = 0.05  # nats, of a batch's loss in float32


def wide_pairs() -> list[Pair]:
    """Rows of many tiles, and lengths on both sides of a tile's."""
    draw = np.random.default_rng(1)

    def tokens(size: int) -> list[int]:
        return [*map(int, draw.integers(3, 60, size))]

    sizes = ((70, 57, 58), (3, 125, 1), (90, 9, 99))
    return [(tokens(prompt), tokens(chosen), tokens(rejected)) for prompt, chosen, rejected in sizes]


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("kind", ["flex", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_every_attention_gives_plain_forwards(family: str, kind: str, dtype: torch.dtype) -> None:
    """Those of float32 on the CPU."""
    pairs = [*SHORT, *long_pairs(), *wide_pairs()]
    model = make_family(family)
    expected = [alone(model, prompt, response) for prompt, *responses in pairs for response in responses]
    policy = Policy(make_family(family).to(dtype), attention=kind, device="cuda").eval()
    assert policy.attention == kind
    for chosen in (pairs, pairs[:1], pairs[-1:]):
        rows = [(np.array(prompt), [np.array(c), np.array(r)], True) for prompt, c, r in chosen]
        with torch.no_grad():
            found = policy(pack_responses(rows).to(torch.device("cuda"))).tolist()
        begin = 2 * pairs.index(chosen[0])
        bound = EXACT if dtype == torch.float32 else HALF
        assert found == pytest.approx(expected[begin : begin + len(found)], **bound)


def test_gradients_of_flex_are_sdpas() -> None:
    rows = [(np.array(prompt), [np.array(c), np.array(r)], True) for prompt, c, r in [*long_pairs(), *wide_pairs()]]
    gradients = []
    for kind in ("sdpa", "flex"):
        policy = Policy(make_family("gemma2"), attention=kind, device="cuda").train()
        policy(pack_responses(rows).to(torch.device("cuda"))).sum().backward()
        gradients.append([p.grad for p in policy.model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stage", [None, 1, 2, 3])
def test_bf16_trains_as_float32_does(make: Make, tmp_path: Path, stage: int | None) -> None:
    """By plain torch, and by DeepSpeed with one worker, each in a process of its own."""
    expected = losses(make())
    spec = make(precision="bf16")
    if stage is not None:
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
        spec = changed(spec, engine="deepspeed", zero_stage=stage)
    folder = tmp_path / "run"
    done = subprocess.run(_command(spec, folder), capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    found = [metrics["loss"] for metrics in _metrics(folder)]
    assert found == pytest.approx(expected, abs=LOSS_IN_BF16)
    assert _metrics(folder)[-1]["attention"] == "flex"


TRAIN = """
import json, sys
from pathlib import Path
from raydaa.training.launch import train_part
from raydaa.training.workers import prepare_process
from raydaa.training.spec import RunSpec
prepare_process(1)
train_part(RunSpec.from_json(json.loads(sys.argv[1])), Path(sys.argv[2]), None)
"""


def _command(spec: Any, folder: Path) -> list[str]:
    return [sys.executable, "-c", TRAIN, json.dumps(spec.to_json()), str(folder)]


def _metrics(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_killed_run_goes_on(make: Make, tmp_path: Path) -> None:
    """With the losses of one that was left alone."""
    spec, folder = make(precision="bf16", epochs=4, checkpoint_every=2), tmp_path / "killed"
    with subprocess.Popen(_command(spec, folder)) as process:
        while len(_metrics(folder)) < 5:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert list((folder / "checkpoint").glob("step-*"))
    subprocess.run(_command(spec, folder), check=True, timeout=500)
    subprocess.run(_command(spec, tmp_path / "quiet"), check=True, timeout=500)
    one, other = ([metrics["loss"] for metrics in _metrics(place)] for place in (folder, tmp_path / "quiet"))
    assert one == pytest.approx(other, abs=LOSS_IN_BF16)


def test_what_was_measured_is_room_enough(make: Make) -> None:
    spec = make(precision="bf16")
    tokens = measure(spec, longest=64, share=0.05)
    torch.cuda.empty_cache()
    run = Run(changed(spec, tokens_per_microbatch=min(tokens, 1 << 14), epochs=2))
    peaks = [run.train_step()["peak_memory"] for _ in range(run.total_steps)]
    assert max(peaks) <= 0.05 * torch.cuda.get_device_properties(0).total_memory


def test_out_of_memory_is_halved_and_goes_on(make: Make, tmp_path: Path) -> None:
    """On a card that is made small: what a step of all pairs at once takes does not fit, half of it does."""
    spec = make(precision="bf16", batch_size=40, tokens_per_microbatch=4096)
    expected = losses(spec)
    whole, half = (_peak(changed(spec, tokens_per_microbatch=tokens)) for tokens in (4096, 2048))
    assert half < whole
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((whole + half) / 2 / total)
    here = workers.Workers(1, 1, 0, None, threads=1, storage=str(tmp_path), max_failures=0, in_process=True)
    try:
        result, used = launch.train(spec, tmp_path / "trial", here)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result["done"]
    assert (used.recipe.tokens, used.recipe.halved) == (2048, True)
    assert [metrics["loss"] for metrics in _metrics(tmp_path / "trial")] == pytest.approx(expected, abs=LOSS_IN_BF16)


def _peak(spec: Any) -> int:
    """Reserved bytes of a run's steps."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    losses(spec)
    return torch.cuda.max_memory_reserved()


def test_kl_of_a_model_against_itself_is_nothing(make: Make, pocket_model: Path) -> None:
    """By one scorer; what generation says of its own responses need not be the scorer's."""
    prompts = [[1, *[4 + (7 * i + j) % 60 for j in range(5)], 7] for i in range(64)]
    drawn = generate(fixed_model(str(pocket_model), "bf16"), prompts, Sampling(1.0, 0, 1.0, 32, 0), [2], 0, 32)
    table = ResponseTable(prompts, [response.tokens for response in drawn])
    with two_scorers(str(pocket_model), str(pocket_model), Scoring("bf16", 512)) as both:
        _, figures = score_share(both, table, budget=512)
    assert (figures[:, 0] == figures[:, 1]).all()
    assert (figures[:, 2] == 0).all()


def test_reference_on_the_card_is_the_cpus(make: Make, pocket_model: Path) -> None:
    spec = make()
    table = PairTable(read(Path(spec.data.train)))
    policy = make_policy(str(pocket_model), "bf16")
    found = score(policy, table, np.arange(len(table)), budget=512)
    told = read(Path(str(spec.data.reference)) / "train.parquet")
    expected = np.stack([told["chosen_logp"].to_numpy(), told["rejected_logp"].to_numpy()], axis=1)
    np.testing.assert_allclose(found, expected, rtol=3e-2, atol=0.3)
