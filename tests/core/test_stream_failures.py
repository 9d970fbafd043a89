"""What fails is said at its place, and nothing hangs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from audiomdb.audio import encode
from audiomdb.errors import (
    CorruptRecordError,
    CorruptShardError,
    DamagedAudioError,
    DatasetNotFoundError,
)
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.stream import SampleStream

CLIPS = 60
BAD = 31

threads = pytest.mark.parametrize("num_threads", [0, 1, 4])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 2000).astype(np.float32)
    clip = encode(noise, 8000)
    with DatasetWriter(path, samples_per_shard=20) as writer:
        for i in range(CLIPS):
            writer.write(f"clip-{i:02d}", {"audio": clip, "text": str(i)})
    return path


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    """The dataset, with a byte of one clip changed."""
    path = tmp_path / "damaged"
    shutil.copytree(whole, path)
    reader = DatasetReader.open(path)
    number, place = reader.locate(BAD)
    shard = reader.shard(number)
    offset = shard.index.payload_offset[place] + 100
    with (shard.directory / "data.mdb").open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))
    return path


def up_to_error(stream: SampleStream, kind: type[BaseException]) -> tuple[list[str], BaseException]:
    """Texts of the samples before the error, and the error."""
    samples: Iterator[Sample] = iter(stream)
    texts: list[str] = []
    with pytest.raises(kind) as caught:
        texts.extend(sample["text"] for sample in samples)
    assert list(samples) == []
    assert not [t for t in threading.enumerate() if t.name.startswith("audiomdb-stream")]
    return texts, caught.value


@threads
@pytest.mark.parametrize("decode", [True, False])
def test_a_damaged_record_is_named_at_its_place(
    damaged: Path, num_threads: int, decode: bool
) -> None:
    stream = SampleStream(damaged, num_threads=num_threads, decode=decode)
    texts, error = up_to_error(stream, CorruptRecordError)
    assert texts == [str(i) for i in range(BAD)]
    assert "shard_00001" in str(error)
    assert "clip-31" in str(error)


def test_a_damaged_record_does_not_stop_the_reading_of_others(damaged: Path) -> None:
    assert len(list(SampleStream(damaged, fields=["text"]))) == CLIPS


@threads
def test_audio_that_does_not_decode_is_named_at_its_place(tmp_path: Path, num_threads: int) -> None:
    noise = np.random.default_rng(2).uniform(-0.5, 0.5, 20000).astype(np.float32)
    clip = encode(noise, 8000)
    middle = len(clip) // 2
    broken = clip[:middle] + bytes(500) + clip[middle + 500 :]
    with DatasetWriter(tmp_path / "clips", check_audio="header") as writer:
        for i in range(10):
            writer.write(f"clip-{i}", {"audio": broken if i == 7 else clip, "text": str(i)})
    stream = SampleStream(tmp_path / "clips", num_threads=num_threads)
    texts, error = up_to_error(stream, DamagedAudioError)
    assert texts == [str(i) for i in range(7)]
    assert "shard_00000: sample 'clip-7'" in str(error)


@threads
def test_a_processors_exception_is_raised_unchanged_with_shard_and_key(
    whole: Path, num_threads: int
) -> None:
    error = ZeroDivisionError("in the user's code")

    def process(sample: Sample) -> Sample:
        if sample["text"] == str(BAD):
            raise error
        return sample

    stream = SampleStream(whole, num_threads=num_threads, processor=process)
    texts, caught = up_to_error(stream, ZeroDivisionError)
    assert texts == [str(i) for i in range(BAD)]
    assert caught is error
    (note,) = caught.__notes__
    assert "shard_00001: sample 'clip-31'" in note


@threads
def test_a_missing_shard_is_named_at_its_place(
    whole: Path, tmp_path: Path, num_threads: int
) -> None:
    path = tmp_path / "clips"
    shutil.copytree(whole, path)
    (path / "shard_00002" / "data.mdb").unlink()
    texts, error = up_to_error(SampleStream(path, num_threads=num_threads), CorruptShardError)
    assert texts == [str(i) for i in range(40)]
    assert "shard_00002" in str(error)


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="nowhere"):
        iter(SampleStream(tmp_path / "nowhere"))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_dataset_that_comes_late_is_read_from_its_first_epoch_on(
    whole: Path, tmp_path: Path, rank: int
) -> None:
    def stream(path: Path) -> SampleStream:
        return SampleStream(path, shuffle=True, fields=["text"], rank=rank, world_size=2)

    late = stream(tmp_path / "late")
    for _ in range(2):
        with pytest.raises(DatasetNotFoundError):
            iter(late)
    shutil.copytree(whole, tmp_path / "late")
    assert list(late) == list(stream(whole))


ENDLESS = """
import sys
from audiomdb.stream import SampleStream

for number, sample in enumerate(SampleStream(sys.argv[1], num_threads=2, epochs=None)):
    if number == 100:
        print("running", flush=True)
"""


HANGING = """
import sys, threading
from audiomdb.stream import SampleStream

begun = threading.Event()

def hang(sample):
    if not begun.is_set():
        begun.set()
        print("running", flush=True)
    threading.Event().wait()

for sample in SampleStream(sys.argv[1], num_threads=2, processor=hang):
    pass
"""


@pytest.mark.parametrize("program", [ENDLESS, HANGING], ids=["endless", "hanging"])
def test_ctrl_c_ends_a_loop(whole: Path, program: str) -> None:
    """Even if a processor hangs in a thread, for which the loop waits."""
    command = [sys.executable, "-c", program, str(whole)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "running\n"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=300)
    assert child.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")


ABANDONED = """
import sys
from audiomdb.stream import SampleStream

samples = iter(SampleStream(sys.argv[1], num_threads=2, epochs=None))
next(samples)
"""


def test_a_program_may_end_in_the_middle_of_an_iteration(whole: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", ABANDONED, str(whole)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_the_room_starts_nothing() -> None:
    code = "import sys, audiomdb.stream; sys.stdout.write(str('torch' in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env=os.environ,
    )
    assert done.stdout == "False"
