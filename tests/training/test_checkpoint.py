"""Resume checkpoints: when they are saved, and which one is gone on from."""

from pathlib import Path

import pytest

from raydaa.training import checkpoint
from raydaa.training.checkpoint import RATE, Pace, foreseen, latest, save

SIZE = 112e9  # bytes of an 8B model's
EACH = SIZE / RATE  # seconds
TRIAL = 2294.0  # seconds of one on eight A100s: 478 steps


def test_small_models_are_saved_by_the_minute() -> None:
    times = foreseen(3600, (), 5, 180e6)
    assert [round(time / 300) for time in times] == list(range(1, 12))
    assert foreseen(3600, (0.1, 0.3), 60, 180e6) == [360, 1080]


@pytest.mark.parametrize("rungs", [(), (0.3,), (0.1, 0.3)])
@pytest.mark.parametrize("seconds", [TRIAL, 7200, 18000])
def test_an_8b_trial_spends_at_most_a_tenth_of_its_time_on_saving(seconds: float, rungs: tuple[float, ...]) -> None:
    times = foreseen(seconds, rungs, 5, SIZE)
    assert times or (seconds == TRIAL and not rungs)
    assert len(times) * EACH <= 0.1 * seconds


def test_an_early_rung_is_trained_again_where_that_is_quicker() -> None:
    """Four minutes of training against four of writing, and four of reading for each of those that go on."""
    assert foreseen(TRIAL, (0.1, 0.3), 5, SIZE) == [pytest.approx(0.3 * TRIAL, abs=1)]
    assert foreseen(TRIAL, (0.1, 0.3), 5, SIZE / 100) != []


def test_what_saving_takes_is_learned() -> None:
    """A local disk is faster than the file system that is expected."""
    now = [0.0]
    pace = Pace(5, SIZE, lambda: now[0])
    now[0] = 20 * EACH + 1
    assert pace.due()
    now[0] += 20.0
    pace.note(now[0] - 20.0)
    now[0] += 301
    assert pace.due()


def write(folder: Path, step: int) -> None:
    def fill(place: Path) -> None:
        (place / "engine.pt").write_bytes(bytes(1000))

    save(folder, step, fill)


def test_only_the_newest_stays_and_its_name_is_its_step(tmp_path: Path) -> None:
    for step in (4, 12):
        write(tmp_path, step)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000012"]
    found = latest(tmp_path)
    assert found is not None
    assert checkpoint.step_of(found) == 12


@pytest.mark.parametrize("damage", ["alter", "truncate", "remove", "add", "manifest"])
def test_one_that_was_written_to_is_passed_over(tmp_path: Path, damage: str) -> None:
    write(tmp_path, 8)
    newest = tmp_path / "step-00000008"
    {
        "alter": lambda: (newest / "engine.pt").write_bytes(bytes(999) + b"1"),
        "truncate": lambda: (newest / "engine.pt").write_bytes(bytes(10)),
        "remove": (newest / "engine.pt").unlink,
        "add": (newest / "other.pt").touch,
        "manifest": lambda: (newest / "manifest.json").write_text("{"),
    }[damage]()
    assert latest(tmp_path) is None
    write(tmp_path, 9)
    assert latest(tmp_path) == tmp_path / "step-00000009"


def test_nothing_of_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred gigabytes would be, by every worker, at every start."""
    write(tmp_path, 4)
    (tmp_path / "step-00000004" / "engine.pt").chmod(0)
    opened: list[str] = []
    before = Path.open

    def note(self: Path, *arguments: object, **options: object) -> object:
        opened.append(self.name)
        return before(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", note)
    assert latest(tmp_path) is not None
    assert "engine.pt" not in opened
