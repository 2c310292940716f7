"""Results go to an object store and come back, over a real S3 interface on this machine."""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from pyarrow import fs

from raydaa.data.files import read_rows
from raydaa.errors import InputError
from raydaa.pipeline.run import _restore
from raydaa.progress import Progress
from raydaa.results import TrialResults
from raydaa.store.artifacts import intact, make_folder
from raydaa.store.mirror import STUDY, Mirror, MirrorError, push_in_background
from raydaa.store.records import FormatRecord
from raydaa.store.study_folder import FORMAT, StudyFolder
from raydaa.study import Study
from tests.command import Command
from tests.studies import micro, written


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """Options of an address in a bucket: ``s3://raydaa/...?OPTIONS``."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    before = {name: os.environ.get(name) for name in keys}
    os.environ.update(keys)
    try:
        system = fs.S3FileSystem(
            endpoint_override=f"{host}:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True
        )
        system.create_dir("raydaa")
        yield f"endpoint_override={quote(f'http://{host}:{port}', safe='')}&region=us-east-1"
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        server.stop()


def fill(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 5000)


def test_what_is_finished_comes_back(store: str, tmp_path: Path) -> None:
    mirror, here, there = Mirror(f"s3://raydaa/one?{store}"), tmp_path / "here", tmp_path / "there"
    make_folder(here / "trials" / "a" / "model", fill)
    (here / "trials" / "a" / "record.json").write_text("{}")
    (here / "trials" / "b" / "checkpoint" / "step-1").mkdir(parents=True)
    (here / "trials" / "b" / "checkpoint" / "step-1" / "engine.pt").write_text("at work")
    (here / ".lock").write_text("")
    push_in_background(mirror, here, "study").result()
    assert mirror.pull(there, "study") == 3
    assert intact(there / "trials" / "a" / "model")
    assert (there / "trials" / "a" / "record.json").read_text() == "{}"
    assert not (there / "trials" / "b").exists()
    assert mirror.pull(there, "study") == 0


def test_sealed_folders_are_sent_once_and_again_when_they_change(store: str, tmp_path: Path) -> None:
    mirror, model = Mirror(f"s3://raydaa/two?{store}"), tmp_path / "model"
    make_folder(model, fill)
    mirror.push(model, "m")

    def sent_at() -> object:
        return mirror.system.get_file_info(f"{mirror.root}/m/weights.bin").mtime_ns

    first = sent_at()
    mirror.push(model, "m")
    assert sent_at() == first
    shutil.rmtree(model)
    make_folder(model, lambda folder: (folder / "weights.bin").write_bytes(b"other"))
    mirror.push(model, "m")
    assert mirror.pull(tmp_path / "again", "m") == 2
    assert (tmp_path / "again" / "weights.bin").read_bytes() == b"other"
    mirror.drop("m")
    mirror.drop("m")  # nothing is there any more
    assert mirror.pull(tmp_path / "dropped", "m") == 0


def test_what_arrived_in_part_is_no_result(store: str, tmp_path: Path) -> None:
    mirror, model = Mirror(f"s3://raydaa/three?{store}"), tmp_path / "model"
    make_folder(model, fill)
    mirror.push(model, "m")
    mirror.system.delete_file(f"{mirror.root}/m/manifest.json")  # it is sent last
    mirror.pull(tmp_path / "again", "m")
    assert not intact(tmp_path / "again")


def test_a_mirror_in_another_format_is_refused(store: str, tmp_path: Path) -> None:
    mirror, there = {"mirror": f"s3://raydaa/old?{store}"}, StudyFolder(tmp_path / "there")
    there.path.mkdir()
    there.format.write(FormatRecord(FORMAT + 1))
    there.settings.write_text("name: old\n")
    Mirror(mirror["mirror"]).push(there.path, STUDY)
    study = Study.from_tree(micro(storage={**mirror, "study": str(tmp_path / "here")}))
    with pytest.raises(InputError, match=f"was written in format {FORMAT + 1}, and this version reads {FORMAT}"):
        _restore(study, Progress(io.StringIO()))


def test_a_store_that_is_not_there_is_one_line(tmp_path: Path, store: str) -> None:
    with pytest.raises(MirrorError, match=r"^nowhere://x: .+$"):
        Mirror("nowhere://x")
    make_folder(tmp_path / "model", fill)
    missing = Mirror(f"s3://no-such-bucket/x?{store}")
    with pytest.raises(MirrorError, match=r"^s3://no-such-bucket/x\?.+: .+$"):
        missing.push(tmp_path / "model", "m")


def test_data_is_read_from_a_bucket(store: str) -> None:
    system = Mirror(f"s3://raydaa/data?{store}").system
    for number in range(2):
        with system.open_output_stream(f"raydaa/data/pairs-{number}.jsonl") as stream:
            stream.write(f'{{"prompt": "p{number}", "chosen": "yes", "rejected": "no"}}\n'.encode())
    rows = read_rows(f"s3://raydaa/data/pairs-*.jsonl?{store}", "train").rows
    assert [(number, row["prompt"]) for number, row in rows] == [(1, "p0"), (2, "p1")]


@pytest.mark.slow
def test_a_new_machine_goes_on_from_the_mirror(store: str, tmp_path: Path) -> None:
    """Study folder and cache are lost with the machine: nothing that was finished is made again."""
    first, second = Command(tmp_path / "first"), Command(tmp_path / "second")
    tables, outputs = [], []
    for command in (first, second):
        search = {"learning_rate": 1.0e-3, "methods": [{"name": "dpo", "beta": 0.1}]}
        study = written(command.folder, micro(search=search, storage={"mirror": f"s3://raydaa/study?{store}"}))
        folder = command.folder / "out"
        result = command.run("run", str(study), "--output", str(folder))
        assert result.returncode == 0, result.stdout + result.stderr
        outputs.append(result.stdout)
        rows = TrialResults.load(folder).rows
        tables.append(
            [
                (row.key, row.state, row.training.step, row.training.validation_loss, row.win_rate, row.kl)
                for row in rows
            ]
        )
        assert command.wait_until_gone() == {}
        shutil.rmtree(command.folder)
    assert tables[0] == tables[1]
    assert "mirror    0 files restored" in outputs[0]
    assert outputs[1].count("kept from before") == 5  # sft, reference, generate, score, judge
