"""What loops wait for, with worker processes and without."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from audiomdb.data.base import CombinedDataset, StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.data.monitor import Monitor
from audiomdb.data.shared import SharedNote
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.sample import Sample
from audiomdb.shards import DatasetWriter
from audiomdb.stream import Stall
from audiomdb.testing.kits.conformance import wait_until

CLIPS = 60

workers = pytest.mark.parametrize("num_workers", [0, 2])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    with DatasetWriter(path, name="clips", samples_per_shard=20) as writer:
        for i in range(CLIPS):
            audio = np.full(2000, i / 100, np.float32)
            writer.write(f"{i:02d}", {"audio": audio, "sample_rate": 8000, "text": str(i)})
    return path


class GatedRetriever(BaseRetriever):
    """Brings half of the second shard, and the rest when a file has appeared."""

    def __init__(self, source: str, gate: str, **options: Any) -> None:
        self.source, self.gate = Path(source), Path(gate)
        super().__init__(**options)

    def download_metadata(self) -> str:
        return shutil.copy(self.source / "metadata.json", self.cache_dir)

    def download_shard(self, shard_id: int) -> str:
        folder = Path(self.cache_dir, "shard")
        folder.mkdir()
        content = (self.source / f"shard_{shard_id:05d}" / "data.mdb").read_bytes()
        half = len(content) // 2
        with (folder / "data.mdb").open("wb") as file:
            file.write(content[:half])
            file.flush()
            if shard_id == 1:
                assert wait_until(self.gate.exists)
            file.write(content[half:])
        return str(folder)


class Told:
    """Keeps the stalls that a test is about, and opens a gate after a second one.

    On a slow disk there are others.
    """

    def __init__(self, gate: Path, is_meant: Callable[[Stall], bool]) -> None:
        self.gate = gate
        self.is_meant = is_meant
        self.stalls: list[Stall] = []

    def __call__(self, stall: Stall) -> None:
        if self.is_meant(stall):
            self.stalls.append(stall)
        if len(self.stalls) == 2:
            self.gate.touch()


def for_half_a_shard(stall: Stall) -> bool:
    return stall.shard == "shard_00001" and bool(stall.there_bytes)


@workers
@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_wait_for_a_shard_is_logged_in_the_training_process(
    path: Path,
    tmp_path: Path,
    num_workers: int,
    device: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = Told(tmp_path / "gate", for_half_a_shard)
    retriever = GatedRetriever(str(path), str(told.gate), cache_dir=tmp_path / "cache")
    dataset = StreamingDataset(retriever, 2, rank=1, world_size=2)
    loader = StreamingLoader(
        dataset, 4, num_workers=num_workers, device=device, stall_after_s=0.3, on_stall=told
    )
    with caplog.at_level(logging.WARNING, "audiomdb.stream"), loader:
        keys = [key for batch in loader for key in batch["__key__"]]
    assert len(keys) == CLIPS // 2
    stall = told.stalls[1]
    size = (path / "shard_00001" / "data.mdb").stat().st_size
    assert (stall.cause, stall.shard, stall.dataset) == ("network", "shard_00001", "clips")
    assert (stall.there_bytes, stall.total_bytes) == (size // 2, size)
    assert (stall.rank, stall.world_size) == (1, 2)
    assert (stall.worker is None) == (num_workers == 0)
    assert [text for text in caplog.messages if text == str(stall)]
    assert "for shard_00001 of dataset 'clips' to arrive" in str(stall)
    stats = loader.stats()
    assert stats.bound_by == "network"
    assert stats.samples >= CLIPS // 2
    assert stats.cache is not None
    assert stats.cache.fetched_shards == 3
    retriever.close()


def test_a_plain_loader_in_one_process_logs_a_stall_too(path: Path, tmp_path: Path) -> None:
    told = Told(tmp_path / "gate", for_half_a_shard)
    retriever = GatedRetriever(str(path), str(told.gate), cache_dir=tmp_path / "cache")
    dataset = StreamingDataset(retriever, 2, stall_after_s=0.2, on_stall=told)
    assert sum(len(batch["text"]) for batch in DataLoader(dataset, 4)) == CLIPS
    assert told.stalls[0].shard == "shard_00001"
    assert dataset.stats().bound_by == "network"
    retriever.close()


class Gated:
    """A processor that waits for a file once, at one sample."""

    def __init__(self, gate: Path) -> None:
        self.gate = gate

    def __call__(self, sample: Sample) -> Sample:
        if sample["text"] == "33":
            assert wait_until(self.gate.exists)
        return sample


def in_the_gated_sample(stall: Stall) -> bool:
    return stall.key == "33"


def test_a_worker_that_is_in_the_processor_is_named(path: Path, tmp_path: Path) -> None:
    told = Told(tmp_path / "gate", in_the_gated_sample)
    dataset = StreamingDataset(LocalRetriever(path), 2, processor=Gated(told.gate))
    with StreamingLoader(
        dataset, 4, num_workers=2, stall_after_s=0.3, on_stall=told, persistent_workers=False
    ) as loader:
        assert len(list(loader)) == CLIPS // 4
    assert (told.stalls[1].cause, told.stalls[1].key) == ("process", "33")
    assert told.stalls[1].worker == 0  # the eighth step, and every other is its own
    assert loader.stats().bound_by == "process"


class DiesOnce:
    """A processor in which a worker is killed once its wait was told; after that, another waits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, sample: Sample) -> Sample:
        key, dead = sample["__key__"], self.folder / "dead"
        if key == ("05" if dead.exists() else "33"):
            assert wait_until((self.folder / key).exists)
            if not dead.exists():
                dead.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return sample


def test_a_killed_workers_wait_is_not_blamed_for_a_later_one(path: Path, tmp_path: Path) -> None:
    told: list[str | None] = []

    def tell(stall: Stall) -> None:
        if stall.cause == "process":
            told.append(stall.key)
            (tmp_path / str(stall.key)).touch()

    dataset = StreamingDataset(LocalRetriever(path), 2, processor=DiesOnce(tmp_path))
    with StreamingLoader(dataset, 4, num_workers=2, stall_after_s=0.3, on_stall=tell) as loader:
        with pytest.raises(RuntimeError, match=r"killed by signal|exited unexpectedly"):
            list(loader)
        assert set(told) == {"33"}
        told.clear()
        assert len(list(loader)) == CLIPS // 4
    assert set(told) == {"05"}


@workers
def test_a_dataset_counts_what_its_passes_gave(path: Path, num_workers: int) -> None:
    dataset = StreamingDataset(LocalRetriever(path), 2)
    assert dataset.stats().samples == 0
    loader = DataLoader(dataset, 4, num_workers=num_workers)
    for passes in (1, 2, 3):
        assert sum(len(batch["text"]) for batch in loader) == CLIPS
        stats = dataset.stats()
        assert stats.samples == passes * CLIPS
        assert stats.sample_bytes == passes * CLIPS * 8000
    assert stats.wait_s + stats.consumer_s > 0
    assert stats.cache is None


def test_passes_of_persistent_workers_and_of_combinations_count(path: Path) -> None:
    parts = [StreamingDataset(LocalRetriever(path), fields=["text"]) for _ in range(2)]
    dataset = CombinedDataset(parts)
    loader = DataLoader(dataset, 4, num_workers=2, persistent_workers=True)
    assert sum(len(batch["text"]) for batch in loader) == 2 * CLIPS
    assert sum(len(batch["text"]) for batch in loader) == 2 * CLIPS
    assert dataset.stats().samples == 4 * CLIPS
    assert dataset.datasets[0].stats().samples == 0


@workers
def test_time_that_a_loop_takes_itself_is_not_a_wait(path: Path, num_workers: int) -> None:
    dataset = StreamingDataset(LocalRetriever(path), 2)
    with StreamingLoader(dataset, 4, num_workers=num_workers) as loader:
        began = perf_counter()
        for number, _ in enumerate(loader):
            if number == 5:
                threading.Event().wait(0.5)
        passed = perf_counter() - began
        stats = loader.stats()
    assert stats.consumer_s >= 0.5
    assert stats.wait_s + stats.consumer_s <= passed
    assert stats.samples == CLIPS
    assert dataset.stats().samples == 0


def test_statistics_start_at_zero_in_another_process(path: Path) -> None:
    dataset = StreamingDataset(LocalRetriever(path), fields=["text"])
    assert len(list(dataset)) == CLIPS
    assert pickle.loads(pickle.dumps(dataset)).stats().samples == 0
    assert isinstance(pickle.loads(pickle.dumps(dataset.monitor)), Monitor)


def test_a_note_keeps_what_is_changed_and_is_copied_with_its_contents() -> None:
    note = SharedNote({"a": 1})
    with note.changing() as contents:
        contents["b"] = [2]
    copy = pickle.loads(pickle.dumps(note))
    with copy.changing() as contents:
        assert contents == {"a": 1, "b": [2]}
        contents.clear()
    with note.changing() as contents:
        assert contents == {"a": 1, "b": [2]}
    with suppress(ZeroDivisionError), note.changing() as contents:
        contents.clear()
        raise ZeroDivisionError
    with note.changing() as contents:
        assert contents == {"a": 1, "b": [2]}
