"""What is not needed is not imported, and is there when it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import audiomdb.audio
import audiomdb.cache
import audiomdb.shards
from audiomdb.audio import encode
from audiomdb.shards import DatasetWriter

FLAC = Path(__file__).parents[1] / "data" / "audio" / "flac" / "flac_s16_level5_16k_mono.flac"

FORKED_LATE = Path(__file__).parent / "programs" / "forked_late.py"

STREAMING = """
import sys
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.stream import SampleStream
with SampleStream(LocalRetriever(sys.argv[1]), shuffle=True, num_threads=2) as stream:
    assert [sample["audio"].dtype.name for sample in stream] == 3 * ["float32"]
print(" ".join(name for name in sys.argv[2:] if name in sys.modules))
"""

FORKING = """
import os, signal, sys, threading

class state:
    begun, forked = threading.Event(), threading.Event()

sys.modules["state"] = state
sys.path.insert(0, sys.argv[1])
import room

thread = threading.Thread(target=lambda: room.thing)
thread.start()
assert state.begun.wait(300)
child = os.fork()
if child == 0:
    signal.alarm(20)
    assert room.thing == 1
    os._exit(7)
state.forked.set()
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

ROOM = """
from audiomdb.lazy import lazily
__getattr__, _ = lazily("room", {"thing": "slow"})
"""

SLOW = """
import logging  # whose lock every fork takes
import state
state.begun.set()
state.forked.wait(1)  # a fork that can happen does so by now
logging.getLogger(__name__)
thing = 1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with DatasetWriter(tmp_path / "three") as writer:
        for number in range(3):
            writer.write(f"clip-{number}", {"audio": FLAC})
    return tmp_path / "three"


def test_streaming_in_place_imports_no_cache_no_writer_and_no_player(folder: Path) -> None:
    """Each process that loads data pays for what it imports: a loader's workers, too."""
    dear = ["audiomdb.cache.manager", "audiomdb.shards.dataset_writer", "audiomdb.uploaders.base"]
    dear += ["lmdb", "miniaudio", "urllib.request"]
    if audiomdb.audio.decoders()["FLAC"] == "dr_flac":
        dear += ["soundfile"]
    command = [sys.executable, "-c", STREAMING, str(folder), *dear]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.split() == []


@pytest.mark.parametrize("package", [audiomdb.audio, audiomdb.cache, audiomdb.shards])
def test_each_public_name_is_there(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert len(names) == len({id(getattr(package, name)) for name in names})
    with pytest.raises(AttributeError, match="has no attribute 'ShardWritr'"):
        package.ShardWritr  # type: ignore[attr-defined]  # noqa: B018


def test_all_names_can_be_imported_at_once() -> None:
    program = (
        "from audiomdb.shards import *; print(DatasetWriter.__name__, verify_dataset.__name__)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert "DatasetWriter" in found.stdout
    assert "verify_dataset" in found.stdout


def test_names_are_listed_before_one_is_asked_for() -> None:
    program = (
        "import sys, audiomdb.shards as shards; print(set(shards.__all__) - set(dir(shards)), "
        "'audiomdb.shards.dataset_writer' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stdout.split() == ["set()", "False"]


def test_a_process_forked_during_an_import_can_import_the_same(tmp_path: Path) -> None:
    """As a worker is, while threads of a loop begin to read."""
    room = tmp_path / "room"
    room.mkdir()
    (room / "__init__.py").write_text(ROOM)
    (room / "slow.py").write_text(SLOW)
    command = [sys.executable, "-c", FORKING, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert found.stdout.split() == ["7"]


@pytest.mark.parametrize(
    ("name", "before", "work"),
    [
        (
            "encodings.idna",
            "from socket import getaddrinfo as a; from audiomdb.cache import counters, retry",
            "retry.Retries('it', counters=counters.Counters(), check=int)(lambda: a('::1', 9))",
        ),
        (
            "soxr",
            "import numpy; from audiomdb.audio import resample",
            "resample(numpy.zeros(9, 'f4'), 8000, 16000)",
        ),
        (
            "tenacity",
            "from audiomdb.cache import counters, retry",
            "retry.Retries('it', counters=counters.Counters(), check=int)(int)",
        ),
    ],
)
def test_a_process_forked_while_a_thread_imports_a_package_can_import_it(
    name: str, before: str, work: str
) -> None:
    command = [sys.executable, str(FORKED_LATE), name, before, work]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert found.stdout.split() == ["7"]


def test_a_process_forked_while_a_thread_fetches_an_index_can_read_one(
    folder: Path, tmp_path: Path
) -> None:
    program = Path(__file__).parent / "programs" / "forked_indexing.py"
    command = [sys.executable, str(program), str(folder), str(tmp_path / "cache")]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert found.stdout.split() == ["7"]


def test_every_import_in_a_thread_is_protected_from_forks(tmp_path: Path) -> None:
    tone = np.sin(np.arange(8000) * 0.1).astype(np.float32) * 0.5
    with DatasetWriter(tmp_path / "clips", samples_per_shard=2) as writer:
        for form in ("flac", "wav", "mp3", "vorbis", "opus"):
            writer.write(form, {"audio": encode(tone, 16_000, form)})
    program = Path(__file__).parent / "programs" / "imported_late.py"
    command = [sys.executable, str(program), str(tmp_path / "clips"), str(tmp_path / "cache")]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert found.stdout == ""


def test_imports_and_threads_never_wait_for_each_other(tmp_path: Path) -> None:
    clip = FLAC.parents[1] / "ogg" / "ogg_opus_16k_mono.opus"
    with DatasetWriter(tmp_path / "clips") as writer:
        for number in range(100):
            writer.write(f"clip-{number:03d}", {"audio": clip})
    program = Path(__file__).parent / "programs" / "collected_importing.py"
    command = [sys.executable, str(program), str(tmp_path / "clips")]
    subprocess.run(command, check=True, timeout=300)


def test_lazy_names_exist_on_a_system_without_fork() -> None:
    program = (
        "import os; del os.fork, os.register_at_fork; import audiomdb.shards as shards; "
        "print(shards.DatasetWriter.__name__)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stdout.split() == ["DatasetWriter"]
