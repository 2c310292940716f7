"""``python -m tests.benchmarks.gpu``: what one card trains, against TRL's DPOTrainer, in at most ``--minutes``.

Models and pairs are made on the spot, so neither Ray nor a network is needed: a Python with torch, transformers, peft
and pyarrow, and this checkout on its PYTHONPATH. TRL is measured where it is installed (``trl`` and ``datasets``, and
for its speed ``liger-kernel`` and ``flash-attn``). Our side comes first: what time is left is TRL's. ``--tiny`` runs
all of it on a CPU with models of no size, where no figure means anything.

Tokens are those of a pair's data: the prompt once and both responses, no padding. MFU counts the operations that
these take at the least, with frozen weights' gradients and the prompt's second pass left out, over the card's peak.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import raydaa
from raydaa.accelerators import rate_of
from tests.benchmarks.contestants import ON_GPU, matrix_rate, measure
from tests.benchmarks.work import make_model, make_pairs, operations, tokens

LEAST_SECONDS = 20.0  # that another process needs to show anything
NAMES = {"raydaa": "raydaa", "trl-precomputed": "TRL"}


@dataclass(frozen=True)
class Work:
    """One model's training on pairs of so many tokens at most, in turn; ``tokens`` are our micro-batch's."""

    model: str
    longest: tuple[int, ...]
    tokens: int
    trl_rows: int  # to begin with
    lora: int | None = None

    def title(self, longest: int) -> str:
        """As the table calls it."""
        what = "all weights" if self.lora is None else f"LoRA of rank {self.lora}"
        return f"{self.model}, {what}, ≤ {longest:,} tokens"


WORKS = (Work("1B", (1024, 4096), tokens=8192, trl_rows=16), Work("8B", (1024,), tokens=4096, trl_rows=8, lora=16))
TINY = (Work("tiny", (48, 96), tokens=256, trl_rows=4), Work("tiny", (48,), tokens=256, trl_rows=4, lora=2))


@dataclass(frozen=True)
class Size:
    """How much is done."""

    works: tuple[Work, ...]
    batch: int
    batches: int  # that are drawn, and trained on again and again
    warm_up: int
    seconds: float

    def arguments(self, work: Work) -> list[str]:
        """For a contestant."""
        values: dict[str, Any] = {
            "batch": self.batch,
            "max-length": max(work.longest),
            "precision": "bf16",
            "tokens": work.tokens,
            "trl-rows": work.trl_rows,
            "epochs": 1000,
            "warm-up": self.warm_up,
            "seconds": self.seconds,
        }
        if work.lora is not None:
            values["lora"] = work.lora
        return ["--trl-groups", *(f"--{name}={value}" for name, value in values.items())]


def run(size: Size, folder: Path, deadline: float) -> Iterator[dict[str, Any]]:
    """A row of the table for each work and contestant, ours first; one that was not measured says why."""
    there = {work: list(_made(size, work, folder)) for work in size.works}
    for contestant, system in NAMES.items():
        for work, places in there.items():
            left = list(zip(work.longest, places, strict=True))
            why = _missing(contestant) or ("no time was left" if deadline - time.monotonic() < LEAST_SECONDS else None)
            if why is None:
                try:
                    limit = deadline - time.monotonic()
                    for figures in measure(contestant, places, size.arguments(work), limit):
                        longest, place = left.pop(0)
                        yield _row(work, longest, contestant, place, figures)
                except subprocess.TimeoutExpired:
                    why = "no time was left"
                except RuntimeError as error:
                    print(error, file=sys.stderr)
                    why = str(error).strip().splitlines()[-1]
            for longest, _ in left:
                yield {"work": work.title(longest), "system": system, "failed": why}


def _missing(contestant: str) -> str | None:
    wanted = [name for name in ("trl", "datasets") if find_spec(name) is None] if contestant != "raydaa" else []
    return f"{' and '.join(wanted)} not installed" if wanted else None


def _made(size: Size, work: Work, folder: Path) -> Iterator[Path]:
    """A folder for each length; the model is saved once."""
    model = folder / work.model
    if not model.exists():
        make_model(model, work.model, max(work.longest))
    for longest in work.longest:
        place = folder / f"{work.model} {work.lora} {longest}"
        place.mkdir()
        (place / "model").symlink_to(model)
        make_pairs(place, "ultrafeedback", size.batch * size.batches, longest)
        yield place


def _row(work: Work, longest: int, contestant: str, place: Path, figures: dict[str, float]) -> dict[str, Any]:
    rate = rate_of(torch.cuda.get_device_name()) if ON_GPU else None
    speed = figures["pairs_per_second"]
    row = {
        "work": work.title(longest),
        "system": NAMES[contestant],
        "pairs/s": speed,
        "tokens/s": speed * tokens(place),
    }
    if rate is not None:
        row["MFU"] = speed * operations(place, work.lora) / rate
    if "reference_seconds" in figures:
        row["reference pairs/s"] = len(json.loads((place / "rows.json").read_text())) / figures["reference_seconds"]
    return {**row, "peak GB": figures["peak_mb"] * 2**20 / 1e9, **figures}


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our rows with what their speed and memory are of TRL's, where both were measured."""
    others = {row["work"]: row for row in rows if row["system"] == "TRL" and "failed" not in row}
    for row in rows:
        other = others.get(row["work"])
        if row["system"] == "raydaa" and other is not None and "failed" not in row:
            row["× TRL"], row["memory / TRL"] = (row[name] / other[name] for name in ("pairs/s", "peak GB"))
    return rows


COLUMNS = {
    "pairs/s": ".1f",
    "tokens/s": ",.0f",
    "MFU": ".1%",
    "peak GB": ".1f",
    "compilations": ".0f",
    "compilations_while_counted": ".0f",
    "reference pairs/s": ".1f",
    "× TRL": ".2f",
    "memory / TRL": ".2f",
}


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    names = [name.replace("compilations_while_counted", "of them while timed") for name in COLUMNS]
    lines = [f"| {' | '.join(['work', 'system', *names])} |", "|---" * (2 + len(names)) + "|"]
    for row in rows:
        cells = [format(row[name], style) if name in row else "" for name, style in COLUMNS.items()]
        if "failed" in row:
            cells[0] = row["failed"].replace("|", "/")
        lines.append(f"| {' | '.join([row['work'], row['system'], *cells])} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table and write it as JSON; exit status 1 where our side failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--json", type=Path, default=Path("gpu-benchmark.json"))
    options = parser.parse_args()
    if not options.tiny and not ON_GPU:
        raise SystemExit("no GPU that torch can use is here; --tiny runs on a CPU")
    deadline = time.monotonic() + 60 * options.minutes
    size = Size(TINY, 4, 2, 1, 0.2) if options.tiny else Size(WORKS, 128, 4, 2, 15.0)
    machine = torch.cuda.get_device_name() if ON_GPU else "CPU"
    with tempfile.TemporaryDirectory() as name:
        rows = compared(list(run(size, Path(name), deadline)))
    rate = matrix_rate("bf16")
    versions = {"raydaa": raydaa.__version__, "torch": torch.__version__}
    print(f"{machine}, torch {torch.__version__}; a large bf16 product: {rate / 1e12:.3g} TFLOP/s\n\n{table(rows)}")
    found = {"machine": machine, "versions": versions, "matrix_flops": rate, "rows": rows}
    options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if any("failed" in row for row in rows if row["system"] == "raydaa"):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
