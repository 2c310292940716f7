"""``python -m tests.benchmarks.sweep``: a sweep of 24 trials as one study, and what of its time is not training.

The model and its pairs are those of ``tests.benchmarks.work``. Each trial makes a few steps. With ``--against trl``
one of TRL's runs at its best setting (reference log-probabilities precomputed) is timed whole, as a process of its
own, and counted 24 times: that is what a sweep by hand takes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from raydaa.results import TrialResults
from tests.benchmarks.figures import show
from tests.benchmarks.work import add_arguments, make_work

SEARCH = {  # 24 trials: 4 methods × 2 β × 3 learning rates, none stopped early
    "init": "base",
    "learning_rate": [1e-5, 3e-5, 1e-4],
    "methods": [
        {"name": "dpo", "beta": [0.05, 0.1]},
        {"name": "ipo", "beta": [0.05, 0.1]},
        {"name": "simpo", "beta": [1.0, 2.0]},
        {"name": "orpo", "beta": [0.5, 1.0]},
    ],
    "early_stopping": None,
}


def study(
    folder: Path,
    options: argparse.Namespace,
    name: str = "sweep",
    search: dict[str, Any] = SEARCH,
    evaluation: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A study of the work in the folder, in a folder of its name, that judges nothing."""
    return {
        "name": name,
        "model": {"source": str(folder / "model")},
        "data": {
            "preferences": {"source": str(folder / "pairs.jsonl"), "validation": 0.1},
            "prompts": {"num": 4},
            "max_length": options.max_length,
        },
        "training": {"batch_size": options.batch, "precision": "fp32", "validations": 1, "checkpoint_every": 1000},
        "search": search,
        "scaling": {"concurrent_trials": options.concurrent},
        "generation": {"engine": "transformers", "max_new_tokens": 4},
        "evaluation": {"judge": "none", "models": [], "baseline": "base", **(evaluation or {})},
        "storage": {"study": str(folder / name), "cache": str(folder / f"cache-{name}")},
    }


def sweep(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Run the study; the share of the sweep's worker time in which no step or validation ran."""
    texts = json.loads((folder / "texts.json").read_text())
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    (folder / "study.yaml").write_text(yaml.safe_dump(study(folder, options)))
    begun = time.perf_counter()
    command = [sys.executable, "-m", "raydaa", "run", str(folder / "study.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    whole = time.perf_counter() - begun
    ended = next(line for line in done.stdout.splitlines() if "] align " in line and "24 finished" in line)
    minutes, _, seconds = ended.rpartition("(")[2].rstrip(")s").rpartition("m")
    align = 60 * int(minutes or 0) + int(seconds)
    steps = sum(row.seconds or 0.0 for row in TrialResults.load(folder / "sweep").rows)
    return {"study_seconds": whole, "align_seconds": align, "idle_share": 1 - steps / (align * options.concurrent)}


def by_hand(folder: Path, options: argparse.Namespace) -> float:
    """Seconds of one whole run of TRL's."""
    command = [sys.executable, "-m", "tests.benchmarks.contestants", "trl-precomputed", str(folder)]
    command += ["--max-length", str(options.max_length), "--batch", str(options.batch)]
    begun = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - begun


def main() -> None:
    """Print the figures as Markdown and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", choices=["trl"])
    add_arguments(parser, shape="64/96/96", pairs=64)
    parser.add_argument("--concurrent", type=int, default=2, help="trials at a time, each on one core")
    parser.add_argument("--json", type=Path, default=Path("sweep-benchmark.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make_work(Path(name), options)
        figures: dict[str, float] = sweep(Path(name), options)
        if options.against:
            figures["trl_run_seconds"] = by_hand(Path(name), options)
            figures["trl_24_runs / study"] = 24 * figures["trl_run_seconds"] / figures["study_seconds"]
    show(figures, options.json)


if __name__ == "__main__":
    main()
