"""What fails in a worker reaches the loop, and nothing hangs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from audiomdb.audio import encode
from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.errors import CorruptRecordError, DatasetNotFoundError
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader, DatasetWriter
from tests.torch.clips import left_behind

BAD = 12

workers = pytest.mark.parametrize("num_workers", [0, 2])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 2000).astype(np.float32)
    with DatasetWriter(path) as writer:
        for i in range(40):
            writer.write(f"clip-{i:02d}", {"audio": encode(noise, 8000), "text": str(i)})
    return path


def batches_before(error: type[Exception], loader: DataLoader[Any]) -> tuple[list[Any], Exception]:
    """What the loop got before the error, and the error."""
    iterator: Any = iter(loader)
    batches: list[Any] = []
    with pytest.raises(error) as caught:
        batches.extend(iterator)
    if loader.num_workers:
        # torch leaves this to the garbage collector, and there it takes 5 s for each worker.
        iterator._shutdown_workers()
    return batches, caught.value


@workers
def test_a_damaged_record_is_named_in_the_loop(
    whole: Path, tmp_path: Path, num_workers: int
) -> None:
    path = tmp_path / "damaged"
    shutil.copytree(whole, path)
    offset = DatasetReader.open(path).shard(0).index.payload_offset[BAD]
    with (path / "shard_00000" / "data.mdb").open("r+b") as file:
        file.seek(offset + 50)
        file.write(b"damage")
    loader = DataLoader(
        StreamingDataset(LocalRetriever(path)), batch_size=4, num_workers=num_workers
    )
    batches, error = batches_before(CorruptRecordError, loader)
    assert "shard_00000" in str(error)
    assert "clip-12" in str(error)
    # Worker 0 has every other sample: its fourth batch would hold the damaged one.
    before = [text for batch in batches for text in batch["text"]]
    assert len(before) == (12 if num_workers == 0 else 8)
    assert str(BAD) not in before


def stumble(sample: Sample) -> Sample:
    if sample["text"] == str(BAD):
        raise ZeroDivisionError("in the user's code")
    return sample


@workers
def test_a_processors_exception_reaches_the_loop_with_shard_and_key(
    whole: Path, num_workers: int
) -> None:
    dataset = StreamingDataset(LocalRetriever(whole), processor=stumble)
    loader = DataLoader(dataset, batch_size=4, num_workers=num_workers)
    _, error = batches_before(ZeroDivisionError, loader)
    # torch hands over the text of a worker's traceback, to which notes belong.
    told = str(error) + "".join(getattr(error, "__notes__", ()))
    assert "in the user's code" in told
    if sys.version_info >= (3, 11) or num_workers == 0:
        assert "shard_00000: sample 'clip-12'" in told


def test_an_exception_in_the_loop_leaves_no_thread_and_no_process(whole: Path) -> None:
    def train(num_workers: int) -> None:
        dataset = StreamingDataset(LocalRetriever(whole), epochs=None)
        for _ in DataLoader(dataset, batch_size=4, num_workers=num_workers):
            raise ZeroDivisionError

    for num_workers in (0, 2):
        with suppress(ZeroDivisionError):
            train(num_workers)
        assert left_behind() == []


ENDLESS = """
import sys
from torch.utils.data import DataLoader
from audiomdb.data.base import StreamingDataset
from audiomdb.retrievers.local import LocalRetriever

dataset = StreamingDataset(LocalRetriever(sys.argv[1]), epochs=None)
for number, batch in enumerate(DataLoader(dataset, batch_size=4, num_workers=int(sys.argv[2]))):
    if number == 20:
        print("running", flush=True)
"""


@workers
def test_ctrl_c_ends_an_endless_loop(whole: Path, num_workers: int) -> None:
    end_by_ctrl_c(ENDLESS, whole, num_workers)


def end_by_ctrl_c(program: str, folder: Path, num_workers: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder), str(num_workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "running\n"
        # With workers, one may hit a finalizer of multiprocessing's, and is lost.
        for patience_s in [120] if num_workers == 0 else [30, 30, 60]:
            child.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                _, errors = child.communicate(timeout=patience_s)
                break
        else:
            child.kill()
            pytest.fail("Ctrl-C did not end it")
    assert child.returncode == -signal.SIGINT
    # Not at the end: workers that were passing a batch on may have their say after it.
    assert "\nKeyboardInterrupt" in errors


BROKEN = """
import sys
from torch.utils.data import DataLoader
from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.retrievers.local import LocalRetriever

def broken(samples):
    raise ValueError("broken")

dataset = StreamingDataset(LocalRetriever(sys.argv[1]), epochs=None)
if sys.argv[2] == "plain":
    loader = DataLoader(dataset, batch_size=4, collate_fn=broken)
else:
    dataset = StreamingDataset(LocalRetriever(sys.argv[1]))
    loader = StreamingLoader(dataset, 4, epochs=None, device="cpu", collate_fn=broken)
for batch in loader:
    pass
"""


@pytest.mark.parametrize("kind", ["plain", "moved"])
def test_a_program_ends_with_the_error_of_its_loop(whole: Path, kind: str) -> None:
    """Python keeps the last error, and with it what the loop was at, until all else has ended."""
    command = [sys.executable, "-c", BROKEN, str(whole), kind]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 1
    assert ended.stderr.rstrip().splitlines()[-1].startswith("ValueError: broken")


def refuse(sample: Sample) -> Sample:
    if sample["text"] == str(BAD):
        raise ValueError("no alignment")
    return sample


@workers
def test_a_sample_that_fails_can_be_left_out_of_its_batch(whole: Path, num_workers: int) -> None:
    dataset = StreamingDataset(LocalRetriever(whole), processor=refuse, on_error="skip")
    with StreamingLoader(dataset, 4, num_workers=num_workers) as loader:
        batches = list(loader)
    assert [len(batch["text"]) for batch in batches] == [3 if n == 3 else 4 for n in range(10)]
    assert [batch["audio"].shape[0] for batch in batches] == [len(b["text"]) for b in batches]
    kept = [text for batch in batches for text in batch["text"]]
    assert kept == [str(n) for n in range(40) if n != BAD]
    plain = DataLoader(dataset, batch_size=4, num_workers=num_workers)
    assert sum(len(batch["text"]) for batch in plain) == 39
    for stats in (loader.stats(), dataset.stats()):
        assert (stats.samples, stats.left_out) == (39, 1)
        assert str(stats).startswith("39 samples (1 left out) in ")


def test_a_clip_that_fails_is_left_out_of_a_batch_decoded_in_place(
    whole: Path, tmp_path: Path
) -> None:
    path = tmp_path / "damaged"
    shutil.copytree(whole, path)
    with DatasetReader.open(path) as reader:
        at = int(reader.shard(0).index.payload_offset[BAD]) + 900
    data = path / "shard_00000" / "data.mdb"
    content = bytearray(data.read_bytes())
    content[at] ^= 0xFF
    data.write_bytes(content)
    good = list(StreamingLoader(StreamingDataset(LocalRetriever(whole)), 4))
    dataset = StreamingDataset(LocalRetriever(path), on_error="skip")
    for number, batch in enumerate(StreamingLoader(dataset, 4)):
        rows = [row for row, key in enumerate(good[number]["__key__"]) if key != f"clip-{BAD}"]
        assert batch["__key__"] == [good[number]["__key__"][row] for row in rows]
        assert batch["audio"].equal(good[number]["audio"][rows])


def die(sample: Sample) -> Sample:
    if sample["text"] == str(BAD):
        os.kill(os.getpid(), signal.SIGKILL)
    return sample


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_worker_that_is_killed_ends_the_loop(whole: Path, device: str | None) -> None:
    dataset = StreamingDataset(LocalRetriever(whole), processor=die)
    loader = StreamingLoader(dataset, 4, num_workers=2, device=device)
    keys: list[str] = []
    with loader, pytest.raises(RuntimeError, match=r"killed by signal|exited unexpectedly"):
        keys.extend(key for batch in loader for key in batch["__key__"])
    assert f"clip-{BAD}" not in keys
    assert left_behind() == []


INTERRUPTED = """
import os, sys, threading
from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.retrievers.local import LocalRetriever

dataset = StreamingDataset(LocalRetriever(sys.argv[1]))
loader = StreamingLoader(dataset, 4, num_workers=2)

def keys():
    return [key for batch in loader for key in batch["__key__"]]

with loader:
    first = keys()
    for _ in range(2):
        try:
            print("idle", flush=True)
            threading.Event().wait()
        except KeyboardInterrupt:
            assert keys() == first
    for worker in loader._workers._kept[1]._iterator._workers:
        worker.kill()
        worker.join()
    assert keys() == first
print("done", flush=True)
"""


def test_a_loader_survives_ctrl_c_at_a_prompt_and_the_loss_of_its_workers(whole: Path) -> None:
    """In a terminal, Ctrl-C reaches the kept workers too."""
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(whole)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        for _ in range(2):
            assert child.stdout.readline() == "idle\n"
            os.killpg(child.pid, signal.SIGINT)
        output, errors = child.communicate(timeout=300)
    assert output == "done\n", errors


ENDLESS_STEPS = """
import sys
from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.retrievers.local import LocalRetriever

dataset = StreamingDataset(LocalRetriever(sys.argv[1]))
loader = StreamingLoader(dataset, 4, epochs=None, num_workers=int(sys.argv[2]), device="cpu")
for number, batch in enumerate(loader):
    if number == 20:
        print("running", flush=True)
"""


@workers
def test_ctrl_c_ends_an_endless_loop_over_a_device(whole: Path, num_workers: int) -> None:
    end_by_ctrl_c(ENDLESS_STEPS, whole, num_workers)


@pytest.mark.parametrize("device", ["none", "cpu"])
def test_an_interrupt_at_any_moment_ends_the_loop(whole: Path, device: str) -> None:
    program = Path(__file__).parent / "programs" / "interrupts.py"
    command = [sys.executable, str(program), str(whole), device, "150"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found == {"lost": 0, "threads": []}, ended.stderr


def test_a_loader_closed_while_a_worker_sends_a_large_batch_lets_its_process_end(
    tmp_path: Path,
) -> None:
    """The worker keeps the lock of torch's queue; a thread of the process waited for it at exit."""
    with DatasetWriter(tmp_path / "texts") as writer:
        for number in range(10):
            writer.write(f"{number}", {"text": 1_000_000 * "x"})
    program = Path(__file__).parent / "programs" / "closed_while_sending.py"
    command = [sys.executable, str(program), str(tmp_path / "texts")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert "the loader was closed in the middle of a pass" in ended.stdout


@pytest.mark.parametrize("batch_size", [None, 8])
def test_a_dataset_that_comes_late_is_read_from_its_first_epoch_on(
    whole: Path, tmp_path: Path, batch_size: int | None
) -> None:
    def dataset(path: Path) -> StreamingDataset:
        retriever = LocalRetriever(path)
        return StreamingDataset(retriever, shuffle=True, batch_size=batch_size, fields=["text"])

    late = dataset(tmp_path / "late")
    for _ in range(2):
        with pytest.raises(DatasetNotFoundError):
            next(iter(late))
    shutil.copytree(whole, tmp_path / "late")
    assert [one["__key__"] for one in late] == [one["__key__"] for one in dataset(whole)]
