"""``python -m tests.benchmarks.align --against trl``: pairs per second and peak memory, against TRL's DPOTrainer.

Both train the same model on the same token ids. Each measurement is a process of its own, the contestants take turns,
and what is printed are medians of ratios within one turn. Loading, tokenizing and reference log-probabilities are not
timed; the first two steps warm up. Model and data are made on the spot; ``--data`` takes a Parquet file of real pairs.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.figures import show
from tests.models import SPECIALS, make_tokenizer, save_llama

WARM_UP = 2
CONTESTANTS = ("raydaa", "trl-precomputed", "trl-default")


def make_work(folder: Path, options: argparse.Namespace) -> None:
    """A model folder and pairs as texts and token ids."""
    texts = _real(options) if options.data else _synthetic(options.shape, options.pairs)
    tokenizer = _tokenizer(texts, options)
    tokenizer.save_pretrained(folder / "model")
    save_llama(folder / "model", vocab_size=8192, hidden=384, layers=6, heads=6, inner=1024)
    eos, rows = tokenizer.eos_token_id, []
    for number, text in enumerate(texts):
        prompt = tokenizer(text["prompt"])["input_ids"]
        sides = [[*tokenizer(text[side])["input_ids"], eos] for side in ("chosen", "rejected")]
        room = options.max_length - len(prompt)
        chosen, rejected = (side[:room] for side in sides)
        rows.append({"pair_id": number, "prompt_tokens": prompt, "chosen_tokens": chosen, "rejected_tokens": rejected})
    (folder / "texts.json").write_text(json.dumps(texts))
    (folder / "rows.json").write_text(json.dumps(rows))


def _real(options: argparse.Namespace) -> list[dict[str, str]]:
    import pyarrow.parquet as pq

    table = pq.read_table(options.data, columns=["prompt", "chosen", "rejected", "split"]).to_pylist()
    rows = [row for row in table if row["split"] == "train" and len(row["prompt"]) < options.max_length]
    return [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows[: options.pairs]]


def _synthetic(shape: str, pairs: int) -> list[dict[str, str]]:
    """Texts of exactly so many words, each a token: prompt/chosen/rejected."""
    rng, sizes = (
        np.random.default_rng(0),
        dict(zip(("prompt", "chosen", "rejected"), map(int, shape.split("/")), strict=True)),
    )
    # A response's end token counts.
    return [
        {
            name: " ".join(f"w{i}" for i in rng.integers(0, 8000, size - (name != "prompt")))
            for name, size in sizes.items()
        }
        for _ in range(pairs)
    ]


def _tokenizer(texts: Sequence[dict[str, str]], options: argparse.Namespace) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if options.data:
        return make_tokenizer((value for text in texts for value in text.values()), 8192)
    words = [*SPECIALS, *(f"w{i}" for i in range(8000))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=SPECIALS[0]))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


def run_raydaa(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Training steps of our loop with the plain torch engine, reference from the store."""
    from raydaa.records import PAIRS, write
    from raydaa.training.launch import prepare_process
    from raydaa.training.loop import Run
    from raydaa.training.reference import join_shares, write_share
    from tests.training.runs import SCORING, run_spec

    prepare_process(os.cpu_count() or 1)
    tables = {"train": str(folder / "train.parquet")}
    write(folder / "train.parquet", json.loads((folder / "rows.json").read_text()), PAIRS)
    scoring = {**SCORING, "budget": options.tokens}
    begun = time.perf_counter()
    write_share(str(folder / "model"), tables, folder, {**scoring, "mismatched": False})
    (folder / "store").mkdir(exist_ok=True)
    (folder / "train.0.parquet").rename(folder / "store" / "train.0.parquet")
    join_shares(folder / "store", tables, 1)
    scored = time.perf_counter() - begun
    spec = run_spec(
        start=str(folder / "model"),
        train=tables["train"],
        reference=str(folder / "store"),
        learning_rate=1e-6,
        batch_size=options.batch,
        adam_betas=(0.9, 0.999),
        tokens_per_microbatch=options.tokens,
        checkpoint_every=10**6,
        validations=1,
    )
    run, times = Run(spec), []
    for _ in range(run.total_steps):
        begun = time.perf_counter()
        metrics = run.train_step()
        times.append(time.perf_counter() - begun)
    return {**_speed(times, options), "loss": metrics["loss"], "reference_seconds": scored}


def run_trl(folder: Path, options: argparse.Namespace, precomputed: bool) -> dict[str, float]:
    """The same with TRL's DPOTrainer."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter() - self.begun)

    config = DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=options.batch,
        num_train_epochs=1,
        learning_rate=1e-6,
        beta=0.1,
        max_length=options.max_length,
        precompute_ref_log_probs=precomputed,
        gradient_checkpointing=False,  # TRL's default is slower
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_steps=10**6,
        disable_tqdm=True,
        dataloader_drop_last=True,
    )
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_list(json.loads((folder / "texts.json").read_text())),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[Clock()],
    )
    result = trainer.train()
    return {**_speed(times, options), "loss": float(result.training_loss)}


def _speed(times: list[float], options: argparse.Namespace) -> dict[str, float]:
    seconds = sum(times[WARM_UP:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"pairs_per_second": options.batch * len(times[WARM_UP:]) / seconds, "peak_mb": peak}


def needed_flops(folder: Path) -> float:
    """Floating-point operations of a pair that cannot be saved: 6 × weights × tokens, and causal attention."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    config = model.config
    layers = sum(p.numel() for p in model.model.layers.parameters())
    head = model.lm_head.weight.numel()
    total = 0.0
    rows = json.loads((folder / "rows.json").read_text())
    for row in rows:
        prompt, chosen, rejected = (len(row[f"{name}_tokens"]) for name in ("prompt", "chosen", "rejected"))
        cells = prompt**2 / 2 + sum(prompt * size + size**2 / 2 for size in (chosen, rejected))
        total += 6 * layers * (prompt + chosen + rejected) + 6 * head * (chosen + rejected)
        total += 12 * config.num_hidden_layers * config.hidden_size * cells
    return total / len(rows)


def matrix_rate() -> float:
    """Floating-point operations a second of a large fp32 matrix product here."""
    import torch

    one, other = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = float("inf")
    for _ in range(8):
        begun = time.perf_counter()
        one @ other
        best = min(best, time.perf_counter() - begun)
    return 2 * 2048**3 / best


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
        turn["matrix_flops"] = matrix_rate()
        turns.append(turn)
        print(json.dumps(turn), file=sys.stderr)
    flops = needed_flops(folder)

    def median(of: Any) -> float:
        return statistics.median(of(turn) for turn in turns)

    figures: dict[str, Any] = {"work": options.data or options.shape, "machine": platform.processor(), "turns": turns}
    for name in CONTESTANTS:
        figures[f"{name}: pairs/s"] = median(lambda turn, name=name: turn[name]["pairs_per_second"])
        figures[f"{name}: peak MB"] = median(lambda turn, name=name: turn[name]["peak_mb"])
    for name in CONTESTANTS[1:]:
        for key, what in (("pairs_per_second", "throughput"), ("peak_mb", "memory")):
            figures[f"{what} / {name}"] = median(lambda t, name=name, key=key: t["raydaa"][key] / t[name][key])
    figures["share of the matrix rate"] = median(
        lambda turn: turn["raydaa"]["pairs_per_second"] * flops / turn["matrix_flops"]
    )
    return figures


def main() -> None:
    """Print the figures as Markdown and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", choices=["trl"], default="trl")
    parser.add_argument("--data", help="Parquet file with prompt, chosen, rejected, split")
    parser.add_argument("--shape", default="256/48/48", help="tokens of prompt/chosen/rejected without --data")
    parser.add_argument("--pairs", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=1024, help="raydaa's tokens per micro-batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("align-benchmark.json"))
    parser.add_argument("--child", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child == "raydaa":
        print(json.dumps(run_raydaa(options.folder, options)))
        return
    if options.child:
        print(json.dumps(run_trl(options.folder, options, options.child == "trl-precomputed")))
        return
    with tempfile.TemporaryDirectory() as name:
        make_work(Path(name), options)
        figures = compare(options, sys.argv[1:], Path(name))
    show(figures, options.json)


if __name__ == "__main__":
    main()
