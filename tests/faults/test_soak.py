"""Hours in small: hundreds of trials through one driver, and faults at random moments. ``pytest -m soak -s``."""

import json
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest

from raydaa.results import TrialResults
from tests.command import Command
from tests.studies import done, micro, table, written

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(7200)]

TRIALS = 500
MINUTES = float(os.environ.get("RAYDAA_SOAK_MINUTES", "30"))


def sampled(process: subprocess.Popen[str], folder: Path, samples: list[tuple[int, float, int]]) -> None:
    """Trials over, resident megabytes and open files of the driver, every two seconds until it ends."""
    driver = psutil.Process(process.pid)
    while process.poll() is None:
        over = len(list(folder.glob("trials/*/record.json")))
        try:
            samples.append((over, driver.memory_info().rss / 2**20, driver.num_fds()))
        except psutil.Error:
            return
        time.sleep(2)


def test_hundreds_of_trials(command: Command) -> None:
    """One step each: nothing but starting, reporting and ending trials takes time, and nothing may pile up."""
    tree = micro(name="many", evaluation={"judge": "none", "judge_trials": "best_per_method", "models": []})
    tree["pocket"] |= {"num_pairs": 32}
    tree["training"] |= {"batch_size": 32, "validations": 1}
    tree["search"] = {
        "learning_rate": 1e-4,
        "seeds": list(range(TRIALS)),
        "methods": [{"name": "dpo", "beta": 0.1}],
        "early_stopping": None,
    }
    folder = command.folder / "many"
    samples: list[tuple[int, float, int]] = []
    with command.start_anew("run", str(written(command.folder, tree)), "--output", str(folder)) as process:
        watcher = threading.Thread(target=sampled, args=(process, folder, samples))
        watcher.start()
        output, _ = process.communicate(timeout=3600)
        watcher.join()
    assert process.returncode == 0, output
    rows = TrialResults.load(folder).rows
    assert [row.state for row in rows] == ["finished"] * TRIALS
    early = next(sample for sample in samples if sample[0] >= TRIALS // 5)
    late = next(sample for sample in reversed(samples) if sample[0] < TRIALS)
    ended = next(line for line in output.splitlines() if "] align " in line and f"{TRIALS} finished" in line)
    print(json.dumps({"at one fifth": early, "near the end": late, "align": ended}))
    assert late[1] - early[1] < 0.1 * early[1], samples
    assert late[2] <= early[2] + 5, samples


def test_faults_at_random_moments(command: Command, undisturbed: tuple[Path, str]) -> None:
    """Any process of a run is killed at any moment, and whenever the driver died the command is given again."""
    draw = random.Random(0)
    deadline = time.monotonic() + 60 * MINUTES
    studies, kills, restarts = 0, 0, 0
    while time.monotonic() < deadline:
        folder = command.folder / f"soaked-{studies}"
        arguments = ("run", str(command.folder / "micro.yaml"), "--output", str(folder))
        arguments += ("--set", f"storage.cache={command.folder / f'soaked-cache-{studies}'}")
        for _ in range(draw.randint(1, 4)):
            with command.start_anew(*arguments) as process:
                threading.Thread(target=process.communicate, daemon=True).start()
                time.sleep(draw.uniform(2, 25))
                victims = list(command.processes())
                if process.poll() is None and victims:
                    victim = process.pid if draw.random() < 0.4 else draw.choice(victims)
                    os.kill(victim, signal.SIGKILL)
                    kills += 1
                process.wait(600)
                restarts += process.returncode != 0
            assert command.wait_until_gone() == {}
        done(command.run(*arguments))
        assert table(folder) == table(undisturbed[0])
        studies += 1
    print(json.dumps({"studies": studies, "kills": kills, "drivers that died": restarts, "minutes": MINUTES}))
    assert kills
