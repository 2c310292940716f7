"""vLLM behind Ray Serve: the same as transformers, also after its weights were swapped."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray
import torch

from raydaa.generation.pool import Pool, served
from raydaa.generation.sample import Response, Sampling, generate
from raydaa.generation.serving import Serving, available
from raydaa.settings.training import LoraSettings
from raydaa.store.artifacts import model_hash
from raydaa.training.lora import add_adapters, merged
from raydaa.training.model import load_model
from tests.models import make_llama

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not available(), reason="vLLM is not installed"),
]

# Prompts of more than 128 tokens fill whole blocks of the prefix cache: stale blocks would show.
PROMPTS = [[1, *[4 + (7 * i + j) % 60 for j in range(length)], 7] for i, length in enumerate((5, 150, 9, 160, 12))]
NAMES = [f"{i:012x}" for i in range(len(PROMPTS))]
LORA = LoraSettings(rank=4, alpha=8.0)
GREEDY = Sampling(0.0, 0, 1.0, 16, seed=0)
SAMPLED = Sampling(1.0, 0, 1.0, 16, seed=0)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, pocket_model: Path) -> list[Path]:
    """Two checkpoints of one architecture with different weights, large enough for clear preferences."""
    folders = []
    for seed in (1, 2):
        model = load_model(pocket_model)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        folder = tmp_path_factory.mktemp(f"checkpoint-{seed}")
        shutil.copytree(pocket_model, folder, dirs_exist_ok=True)
        model.save_pretrained(folder)
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as made:
        yield made


@pytest.fixture(scope="module")
def pool(own_ray: None, stack: contextlib.ExitStack, checkpoints: list[Path]) -> Pool:
    options = {"dtype": "float32", "max_model_len": 200, "max_num_seqs": 64, "min_replicas": 0}
    return stack.enter_context(served(Serving(model=checkpoints[0], name="policy", **options), "raydaa-test"))


def ask(pool: Pool, checkpoint: Path, sampling: Sampling, order: list[int] | None = None) -> list[Response]:
    order = order or list(range(len(PROMPTS)))
    prompts, names = [PROMPTS[i] for i in order], [NAMES[i] for i in order]
    responses = pool.ask(checkpoint, model_hash(checkpoint), prompts, names, sampling, [2])()
    return [responses[order.index(i)] for i in range(len(PROMPTS)) if i in order]


def by_transformers(checkpoint: Path) -> list[Response]:
    return generate(load_model(checkpoint).eval(), PROMPTS, GREEDY, stops=[2], pad=0, batch_size=8)


def test_greedy_equals_transformers_through_every_swap(pool: Pool, checkpoints: list[Path]) -> None:
    expected = [by_transformers(checkpoint) for checkpoint in checkpoints]
    assert [r.tokens for r in expected[0]] != [r.tokens for r in expected[1]]
    for turn in (0, 1, 0):
        found = ask(pool, checkpoints[turn], GREEDY)
        assert [r.tokens for r in found] == [r.tokens for r in expected[turn]]
        assert [r.logp for r in found] == pytest.approx([r.logp for r in expected[turn]], abs=1e-4)
        assert [r.cut for r in found] == [r.cut for r in expected[turn]]


def test_a_prompts_response_depends_on_nothing_else(pool: Pool, checkpoints: list[Path]) -> None:
    together = ask(pool, checkpoints[0], SAMPLED)
    assert ask(pool, checkpoints[0], SAMPLED, order=[4, 2, 0, 3, 1]) == together
    alone = [ask(pool, checkpoints[0], SAMPLED, order=[i])[0] for i in (1, 2)]
    assert [response.tokens for response in alone] == [together[i].tokens for i in (1, 2)]


def test_another_architecture_is_refused_and_the_server_goes_on(
    pool: Pool, checkpoints: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(Exception, match="nowhere: is not a checkpoint"):
        ask(pool, tmp_path / "nowhere", GREEDY)
    other = make_llama(tmp_path / "other", ["some text"] * 3)
    with pytest.raises(Exception, match="is of another architecture"):
        ask(pool, other, GREEDY)
    lacking = tmp_path / "lacking"
    shutil.copytree(checkpoints[1], lacking)
    from safetensors.torch import load_file, save_file

    tensors = load_file(lacking / "model.safetensors")
    tensors.pop("lm_head.weight")
    save_file(tensors, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Exception, match="is of another architecture"):
        ask(pool, lacking, GREEDY)
    assert ask(pool, checkpoints[1], GREEDY) != []


def test_both_engines_end_at_whichever_stop_comes_first(pool: Pool, checkpoints: list[Path]) -> None:
    early = by_transformers(checkpoints[0])[0].tokens[3]
    model = load_model(checkpoints[0]).eval()
    expected = generate(model, PROMPTS, GREEDY, stops=[2, early], pad=0, batch_size=8)
    found = pool.ask(checkpoints[0], model_hash(checkpoints[0]), PROMPTS, NAMES, GREEDY, [2, early])()
    assert [(r.tokens, r.cut) for r in found] == [(r.tokens, r.cut) for r in expected]
    assert found[0].tokens[-1] == early


def test_merged_adapters_answer_as_adapters_do(pool: Pool, checkpoints: list[Path], tmp_path: Path) -> None:
    """What is handed over after LoRA is whole weights; the model with its adapters beside it says the same."""
    model = load_model(checkpoints[0])
    add_adapters(model, LORA)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    expected = generate(model.eval(), PROMPTS, GREEDY, stops=[2], pad=0, batch_size=8)
    whole = load_model(checkpoints[0])
    whole.load_state_dict(merged(model.state_dict(), LORA))
    shutil.copytree(checkpoints[0], tmp_path / "merged")
    whole.save_pretrained(tmp_path / "merged")
    found = ask(pool, tmp_path / "merged", GREEDY)
    assert [r.tokens for r in found] == [r.tokens for r in expected]
    assert [r.tokens for r in found] != [r.tokens for r in by_transformers(checkpoints[0])]
    assert [r.logp for r in found] == pytest.approx([r.logp for r in expected], abs=1e-3)


def replica() -> psutil.Process:
    """The process of the replica."""
    mine = psutil.Process().children(recursive=True)
    return next(p for p in mine if "ServeReplica" in " ".join(p.cmdline()) and "policy" in " ".join(p.cmdline()))


def test_five_hundred_prompts_outlive_their_replica_and_the_controller(pool: Pool, checkpoints: list[Path]) -> None:
    """Both are killed while a checkpoint answers that the next replica does not begin with."""
    prompts = [[1, *[4 + (7 * i + j) % 60 for j in range(3 + i % 40)], 7] for i in range(500)]
    names, sampling = [f"{i:012x}" for i in range(500)], Sampling(1.0, 0, 1.0, 30, seed=1)
    request = (checkpoints[1], model_hash(checkpoints[1]), prompts, names, sampling, [2])
    expected = pool.ask(*request)()
    assert len(expected) == 500
    answer = pool.ask(*request)
    time.sleep(1)
    replica().kill()
    ray.kill(ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve"), no_restart=False)
    assert answer() == expected


def test_other_weights_are_refused(pool: Pool, checkpoints: list[Path]) -> None:
    with pytest.raises(RuntimeError, match=r"answered with weights \w+, not what was asked for, 4 times in a row"):
        pool.ask(checkpoints[0], "what was asked for", PROMPTS, NAMES, GREEDY, [2])()


def test_whoever_leaves_does_not_wait_for_answers(
    pool: Pool, stack: contextlib.ExitStack, checkpoints: list[Path]
) -> None:
    """The last test: it ends the pool, as Ctrl-C would in the middle of a checkpoint."""
    prompts = [[1, 5 + i % 50, 7] for i in range(20_000)]
    names, sampling = [f"{i:012x}" for i in range(len(prompts))], Sampling(1.0, 0, 1.0, 190, seed=1)
    answer = pool.ask(checkpoints[1], model_hash(checkpoints[1]), prompts, names, sampling, [2])
    time.sleep(2)
    begun = time.monotonic()
    stack.close()
    assert time.monotonic() - begun < 60
    with pytest.raises(Exception, match="cancelled"):
        answer()
