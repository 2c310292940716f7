"""``python -m tests.benchmarks.align --against trl``: pairs per second and peak memory, against TRL's DPOTrainer.

Both train the same model on the same token ids. Each measurement is a process of its own, the contestants take turns,
and what is printed are medians of ratios within one turn. Loading, tokenizing and reference log-probabilities are not
timed; the first steps warm up. Model and data are made on the spot; ``--data`` takes a Parquet file of real pairs.
A third contestant does nothing but our step's matrix products and attention: whoever makes the same ones is no faster,
so ``throughput the products alone allow`` bounds every ratio. On a GPU:
``--model 1B --shape ultrafeedback --precision bf16 --max-length 2048 --batch 32 --pairs 512 --warm-up 5``.
"""

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.figures import show
from tests.benchmarks.work import add_arguments, make_work, needed_flops

CONTESTANTS = ("raydaa", "products", "trl-precomputed", "trl-default")
ON_GPU = torch.cuda.is_available()


def run_raydaa(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Training steps of our loop with the plain torch engine, reference from the store."""
    from raydaa.records import PAIRS, write
    from raydaa.training.launch import prepare_process
    from raydaa.training.loop import Run
    from raydaa.training.reference import join_shares, write_share
    from tests.training.runs import SCORING

    prepare_process(os.cpu_count() or 1)
    tables = {"train": str(folder / "train.parquet")}
    write(folder / "train.parquet", json.loads((folder / "rows.json").read_text()), PAIRS)
    scoring = {**SCORING, "budget": options.tokens, "precision": options.precision}
    begun = time.perf_counter()
    write_share(str(folder / "model"), tables, folder, {**scoring, "mismatched": False})
    (folder / "store").mkdir(exist_ok=True)
    (folder / "train.0.parquet").rename(folder / "store" / "train.0.parquet")
    join_shares(folder / "store", tables, 1)
    scored = time.perf_counter() - begun
    run, times = Run(_spec(folder, options, reference=str(folder / "store"))), []
    for _ in range(run.total_steps):
        begun = time.perf_counter()
        metrics = run.train_step()
        times.append(time.perf_counter() - begun)
    return {**_speed(times, options), "loss": metrics["loss"], "reference_seconds": scored}


def _spec(folder: Path, options: argparse.Namespace, **values: Any) -> Any:
    from tests.training.runs import run_spec

    return run_spec(
        start=str(folder / "model"),
        train=str(folder / "train.parquet"),
        learning_rate=1e-6,
        batch_size=options.batch,
        adam_betas=(0.9, 0.999),
        tokens_per_microbatch=options.tokens,
        precision=options.precision,
        checkpoint_every=10**6,
        validations=1,
        **values,
    )


def run_products(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """The matrix products of our steps, and torch's attention, forward and backward; nothing between them."""
    from raydaa.training.attention import packed_sdpa
    from raydaa.training.launch import prepare_process
    from raydaa.training.loop import Run

    prepare_process(os.cpu_count() or 1)
    run = Run(_spec(folder, options, method="simpo", parameters={"beta": 1.0}))
    model, device = run.policy.model, run.device
    kind = torch.bfloat16 if options.precision == "bf16" else torch.float32
    products = [m.weight.detach().to(kind) for m in model.modules() if isinstance(m, torch.nn.Linear)]
    head, size = model.get_output_embeddings().weight, model.config.head_dim

    largest = options.tokens * max(max(weight.shape) for weight in products)
    numbers = torch.randn(2, largest, dtype=kind, device=device)  # drawing them is not what is timed

    def random(*shape: int, which: int = 0) -> torch.Tensor:
        return numbers[which, : math.prod(shape)].view(shape)

    times = []
    for indices in run.batches:
        batches = [batch for _, batch, _ in run._microbatches(run.table, indices)]
        begun = time.perf_counter()
        for batch in batches:
            for weight in products:
                rows = len(batch.targets) if weight.shape == head.shape else len(batch.tokens)
                taken, given = random(rows, weight.shape[1]), random(rows, weight.shape[0], which=1)
                torch.nn.functional.linear(taken, weight), given @ weight, given.T @ taken
            query = random(1, model.config.num_attention_heads, len(batch.tokens), size).clone().requires_grad_()
            key, value = (
                random(1, model.config.num_key_value_heads, len(batch.tokens), size).clone().requires_grad_()
                for _ in range(2)
            )
            for _ in range(model.config.num_hidden_layers):
                packed_sdpa(None, query, key, value, None, blocks=batch.blocks)[0].sum().backward()
        if ON_GPU:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return _speed(times, options)


def run_trl(folder: Path, options: argparse.Namespace, precomputed: bool) -> dict[str, float]:
    """The same with TRL's DPOTrainer."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if ON_GPU:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - self.begun)

    config = DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=options.trl_rows or options.batch,
        gradient_accumulation_steps=options.batch // (options.trl_rows or options.batch),
        num_train_epochs=1,
        learning_rate=1e-6,
        beta=0.1,
        max_length=options.max_length,
        precompute_ref_log_probs=precomputed,
        gradient_checkpointing=False,  # TRL's default is slower
        bf16=options.precision == "bf16",
        use_cpu=not ON_GPU,
        report_to="none",
        save_strategy="no",
        logging_steps=10**6,
        disable_tqdm=True,
        dataloader_drop_last=True,
    )
    attention = "flash_attention_2" if ON_GPU and find_spec("flash_attn") else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation=attention)
    trainer = DPOTrainer(
        model,
        args=config,
        train_dataset=Dataset.from_list(json.loads((folder / "texts.json").read_text())),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[Clock()],
    )
    result = trainer.train()
    return {**_speed(times, options), "loss": float(result.training_loss)}


def _speed(times: list[float], options: argparse.Namespace) -> dict[str, float]:
    counted = times[options.warm_up :]
    peak = torch.cuda.max_memory_allocated() if ON_GPU else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"pairs_per_second": options.batch * len(counted) / sum(counted), "peak_mb": peak / 2**20}


def matrix_rate(precision: str) -> float:
    """Floating-point operations a second of a large matrix product here."""
    size, device = (8192, "cuda") if ON_GPU else (2048, "cpu")
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = (torch.randn(size, size, dtype=kind, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        begun = time.perf_counter()
        one @ other
        if ON_GPU:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def measure(contestant: str, folder: Path, arguments: Sequence[str]) -> dict[str, float]:
    """One contestant in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.align",
        *arguments,
        "--child",
        contestant,
        "--folder",
        str(folder),
    ]
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compare(options: argparse.Namespace, arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """Turns of all contestants, and the medians of their ratios."""
    turns = []
    for _ in range(options.repeats):
        turn: dict[str, Any] = {name: measure(name, folder, arguments) for name in CONTESTANTS}
        turn["matrix_flops"] = matrix_rate(options.precision)
        turns.append(turn)
        print(json.dumps(turn), file=sys.stderr)
    flops = needed_flops(folder)

    def median(of: Any) -> float:
        return statistics.median(of(turn) for turn in turns)

    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"  # platform.processor() is often empty
    machine = torch.cuda.get_device_name() if ON_GPU else f"{processor}, {os.cpu_count()} cores"
    figures: dict[str, Any] = {"work": options.data or options.shape, "machine": machine, "turns": turns}
    for name in CONTESTANTS:
        figures[f"{name}: pairs/s"] = median(lambda turn, name=name: turn[name]["pairs_per_second"])
        figures[f"{name}: peak MB"] = median(lambda turn, name=name: turn[name]["peak_mb"])
    for name in CONTESTANTS[2:]:
        for key, what in (("pairs_per_second", "throughput"), ("peak_mb", "memory")):
            figures[f"{what} / {name}"] = median(lambda t, name=name, key=key: t["raydaa"][key] / t[name][key])
        figures[f"throughput the products alone allow / {name}"] = median(
            lambda t, name=name: t["products"]["pairs_per_second"] / t[name]["pairs_per_second"]
        )
    figures["share of the matrix rate"] = median(
        lambda turn: turn["raydaa"]["pairs_per_second"] * flops / turn["matrix_flops"]
    )
    return figures


def main() -> None:
    """Print the figures as Markdown and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", choices=["trl"], default="trl")
    add_arguments(parser, shape="256/48/48", pairs=96)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--tokens", type=int, default=16384 if ON_GPU else 1024, help="raydaa's tokens per micro-batch")
    parser.add_argument("--trl-rows", type=int, help="TRL's pairs per micro-batch, where a whole batch does not fit")
    parser.add_argument("--warm-up", type=int, default=2, help="steps that are not counted")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("align-benchmark.json"))
    parser.add_argument("--child", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        runs = {"raydaa": run_raydaa, "products": run_products}
        run = runs.get(options.child) or partial(run_trl, precomputed=options.child == "trl-precomputed")
        print(json.dumps(run(options.folder, options)))
        return
    with tempfile.TemporaryDirectory() as name:
        make_work(Path(name), options)
        figures = compare(options, sys.argv[1:], Path(name))
    show(figures, options.json)


if __name__ == "__main__":
    main()
