"""What the training benchmarks run, each in a process of its own: our loop, its products alone, TRL's DPOTrainer.

``--seconds`` bounds the counted steps of each; a run ends with its epochs or with them.
"""

import argparse
import gc
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks import work
from tests.benchmarks.work import adapters_of

CONTESTANTS = ("raydaa", "products", "trl-precomputed", "trl-default")
ON_GPU = torch.cuda.is_available()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How they train."""
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--tokens", type=int, default=16384 if ON_GPU else 1024, help="raydaa's tokens per micro-batch")
    parser.add_argument("--trl-rows", type=int, help="TRL's pairs per micro-batch at first; halved until they fit")
    parser.add_argument("--trl-groups", action="store_true", help="TRL's batches are of pairs of similar length")
    parser.add_argument("--lora", type=int, help="rank of adapters on all linear layers; else all weights are trained")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=2, help="steps that are not counted")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of counted steps")


@dataclass
class Clock:
    """Seconds of each step, and what they took of the machine."""

    options: argparse.Namespace
    times: list[float] = field(default_factory=list)
    graphs: int = 0  # compiled during counted steps

    def begin(self) -> None:
        """A step begins."""
        self.compiled, self.begun = compilations(), time.perf_counter()

    def end(self) -> bool:
        """It is over; whether another one is wanted."""
        if ON_GPU:
            torch.cuda.synchronize()
        self.times.append(time.perf_counter() - self.begun)
        if len(self.times) > self.options.warm_up:
            self.graphs += compilations() - self.compiled
        return sum(self.times[self.options.warm_up :]) < self.options.seconds

    def figures(self) -> dict[str, float]:
        """Of the counted steps."""
        counted = self.times[self.options.warm_up :]
        peak = (
            torch.cuda.max_memory_allocated() if ON_GPU else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        )
        return {
            "pairs_per_second": self.options.batch * len(counted) / sum(counted),
            "peak_mb": peak / 2**20,
            "steps": len(counted),
            "compilations": compilations(),
            "compilations_while_counted": self.graphs,
        }


def compilations() -> int:
    """Graphs that torch has compiled in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"]) if "torch._dynamo" in sys.modules else 0


def run_raydaa(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Training steps of our loop with the plain torch engine, reference from the store."""
    from raydaa.store.tables import PAIRS, write
    from raydaa.training.reference import Scoring, join_shares, write_share
    from raydaa.training.run import Run
    from raydaa.training.workers import prepare_process

    prepare_process(os.cpu_count() or 1)
    rows, tables = json.loads((folder / "rows.json").read_text()), {"train": str(folder / "train.parquet")}
    write(folder / "train.parquet", rows, PAIRS)
    scored = write_share(str(folder / "model"), tables, folder, Scoring(options.precision, options.tokens))
    (folder / "store").mkdir(exist_ok=True)
    (folder / "train.0.parquet").rename(folder / "store" / "train.0.parquet")
    join_shares(folder / "store", tables, 1)
    _forget()
    run, clock = Run(_spec(folder, options, reference=str(folder / "store"))), Clock(options)
    for _ in range(run.total_steps):
        clock.begin()
        metrics = run.train_step()
        if not clock.end():
            break
    return {**clock.figures(), "loss": metrics["loss"], "reference_seconds": scored}


def _forget() -> None:
    """What was scored before is not training's memory."""
    gc.collect()
    if ON_GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _spec(folder: Path, options: argparse.Namespace, **values: Any) -> Any:
    from tests.training.runs import run_spec

    return run_spec(
        start=str(folder / "model"),
        train=str(folder / "train.parquet"),
        learning_rate=1e-6,
        epochs=options.epochs,
        batch_size=options.batch,
        adam_betas=(0.9, 0.999),
        tokens_per_microbatch=options.tokens,
        precision=options.precision,
        checkpoint_every=10**6,
        validations=1,
        lora=None if options.lora is None else adapters_of(options.lora),
        **values,
    )


def run_products(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """The matrix products of our steps, and torch's attention, forward and backward; nothing between them."""
    from raydaa.training.attention import packed_sdpa
    from raydaa.training.run import Run
    from raydaa.training.workers import prepare_process

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

    clock = Clock(options)
    for indices in run.batches:
        batches = [batch for _, batch, _ in run._microbatches(run.train.rows, indices)]
        clock.begin()
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
        if not clock.end():
            break
    return clock.figures()


def run_trl(folder: Path, options: argparse.Namespace, precomputed: bool) -> dict[str, float]:
    """The same with TRL's DPOTrainer, without recomputation, with Liger's kernels and FlashAttention where they are
    installed."""
    rows = options.trl_rows or options.batch
    while True:
        try:
            return {**_trl(folder, options, precomputed, rows), "rows": rows}
        except torch.OutOfMemoryError:
            if rows == 1:
                raise
        rows //= 2
        _forget()


def _trl(folder: Path, options: argparse.Namespace, precomputed: bool, rows: int) -> dict[str, float]:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    clock = Clock(options)

    class Steps(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            _forget()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.begin()

        def on_step_end(self, _: Any, __: Any, control: Any, **___: Any) -> None:
            control.should_training_stop |= not clock.end()

    config = DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=options.batch // rows,
        num_train_epochs=options.epochs,
        learning_rate=1e-6,
        beta=0.1,
        max_length=options.max_length,
        precompute_ref_log_probs=precomputed,
        train_sampling_strategy="group_by_length" if options.trl_groups else "random",
        remove_unused_columns=False,  # the lengths are one
        use_liger_kernel=find_spec("liger_kernel") is not None,
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
    half = options.precision == "bf16" and options.lora is not None  # weights that are trained stay in float32
    dtype = torch.bfloat16 if half else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype, attn_implementation=attention)
    texts = json.loads((folder / "texts.json").read_text())
    trainer = DPOTrainer(
        model,
        args=config,
        train_dataset=Dataset.from_list(texts),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[Steps()],
        peft_config=_adapters(options),
    )
    lengths = [sum(len(text[side].split()) for side in text) for text in texts]
    trainer.train_dataset = trainer.train_dataset.add_column("length", lengths)
    result = trainer.train()
    return {**clock.figures(), "loss": float(result.training_loss)}


def _adapters(options: argparse.Namespace) -> Any:
    if options.lora is None:
        return None
    from peft import LoraConfig

    same = adapters_of(options.lora)
    return LoraConfig(r=same.rank, lora_alpha=same.alpha, target_modules="all-linear", task_type="CAUSAL_LM")


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


def measure(
    contestant: str, folders: Sequence[Path], arguments: Sequence[str], limit: float | None = None
) -> Iterator[dict[str, float]]:
    """One contestant in a process of its own, over the work of each folder in turn.

    RuntimeError with what it said where it fails; subprocess.TimeoutExpired after ``limit`` seconds.
    """
    command = [sys.executable, "-m", "tests.benchmarks.contestants", contestant, *map(str, folders), *arguments]
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet, timeout=limit)
    except subprocess.TimeoutExpired as error:
        yield from _told((error.stdout or b"").decode())
        raise
    yield from _told(done.stdout)
    if done.returncode:
        raise RuntimeError(done.stderr)


def _told(output: str) -> Iterator[dict[str, float]]:
    for line in output.splitlines():
        if line.startswith('{"pairs_per_second"'):
            yield json.loads(line)


def main() -> None:
    """Measure one contestant here; a JSON line for each folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("folders", nargs="+", type=Path)
    work.add_arguments(parser, shape="", pairs=0)
    add_arguments(parser)
    options, _ = parser.parse_known_args()
    runs = {"raydaa": run_raydaa, "products": run_products}
    run = runs.get(options.contestant) or partial(run_trl, precomputed=options.contestant == "trl-precomputed")
    for folder in options.folders:
        print(json.dumps(run(folder, options)), flush=True)
        _forget()


if __name__ == "__main__":
    main()
