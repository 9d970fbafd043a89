"""A loop that waits is told what for, and its time is accounted for."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from audiomdb import quantities
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.sample import Sample
from audiomdb.shards import DatasetWriter
from audiomdb.stream import SampleStream, Stall, StreamStats
from audiomdb.stream.ahead import in_order
from audiomdb.stream.stalls import StallWatcher, log_stall
from audiomdb.stream.watch import Watch, Whose

CLIPS = 60

threads = pytest.mark.parametrize("num_threads", [0, 2])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    with DatasetWriter(path, name="clips", samples_per_shard=20) as writer:
        for i in range(CLIPS):
            audio = np.full(2000, i / 100, np.float32)
            writer.write(f"clip-{i:02d}", {"audio": audio, "sample_rate": 8000, "text": str(i)})
    return path


class Gate:
    """Something that is shut until stalls were told.

    Args:
        counts: Which of them; a machine with other things to do brings some of its own.
    """

    def __init__(self, counts: Callable[[Stall], Any] = lambda _: True) -> None:
        self.counts = counts
        self.opened = threading.Event()
        self.stalls: list[Stall] = []

    def told(self, stall: Stall) -> None:
        if not self.counts(stall):
            return
        self.stalls.append(stall)
        if len(self.stalls) == 2:
            self.opened.set()


def watched(stream: SampleStream, gate: Gate, whose: Whose | None = None) -> tuple[int, Watch]:
    """Samples of an iteration that stalls, and its watch."""
    watch = Watch(whose)
    with StallWatcher(watch.look, 0.1, log_stall(gate.told)):
        count = sum(1 for _ in stream.samples(watch))
    assert not [t for t in threading.enumerate() if t.name.startswith("audiomdb-stream")]
    return count, watch


class SlowRetriever(BaseRetriever):
    """Brings half of the second shard, then waits."""

    def __init__(self, source: Path, gate: Gate, **options: Any) -> None:
        self.source, self.gate = source, gate
        super().__init__(**options)

    def download_metadata(self) -> str:
        return shutil.copy(self.source / "metadata.json", self.cache_dir)

    def download_shard(self, shard_id: int) -> str:
        folder = Path(self.cache_dir, "shard")
        folder.mkdir()
        content = (self.source / f"shard_{shard_id:05d}" / "data.mdb").read_bytes()
        with (folder / "data.mdb").open("wb") as file:
            if shard_id == 1:
                file.write(content[: len(content) // 2])
                file.flush()
                assert self.gate.opened.wait(300)
                file.write(content[len(content) // 2 :])
            else:
                file.write(content)
        return str(folder)


@threads
def test_a_shard_that_does_not_come_is_named(
    dataset: Path, tmp_path: Path, num_threads: int, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(lambda stall: stall.shard == "shard_00001" and stall.there_bytes)
    retriever = SlowRetriever(dataset, gate, cache_dir=tmp_path, prefetch=2)
    stream = SampleStream(retriever, num_threads=num_threads)
    with caplog.at_level(logging.WARNING, "audiomdb.stream"):
        count, watch = watched(stream, gate, Whose(rank=1, world_size=4, worker=0))
    assert count == CLIPS
    size = (dataset / "shard_00001" / "data.mdb").stat().st_size
    first, second = gate.stalls[:2]
    for stall in (first, second):
        assert stall.cause == "network"
        assert (stall.dataset, stall.shard) == ("clips", "shard_00001")
        assert (stall.there_bytes, stall.total_bytes) == (size // 2, size)
        assert stall.retries == 0
    assert second.waited_s >= 2 * first.waited_s >= 0.2
    assert second.bytes_per_s is not None
    said = [text for text in caplog.messages if "for shard_00001 of" in text]
    text = next(text for text in said if ": 0 B of" not in text)
    assert text.startswith("rank 1 of 4, worker 0 has waited ")
    progress = f"{quantities.size(size // 2)} of {quantities.size(size)} are there"
    assert f"for shard_00001 of dataset 'clips' to arrive: {progress}" in text
    stats = watch.stats
    assert stats.network_s > 0.2
    assert stats.bound_by == "network"
    assert stats.samples == CLIPS
    retriever.close()


@threads
def test_a_processor_that_does_not_return_is_named_with_its_sample(
    dataset: Path, num_threads: int
) -> None:
    gate = Gate(lambda stall: stall.cause == "process")

    def process(sample: Sample) -> Sample:
        if sample["text"] == "33":
            assert gate.opened.wait(300)
        return sample

    stream = SampleStream(dataset, num_threads=num_threads, processor=process)
    count, watch = watched(stream, gate)
    assert count == CLIPS
    assert (gate.stalls[0].shard, gate.stalls[0].key) == ("shard_00001", "clip-33")
    assert str(gate.stalls[0]).endswith(
        "for the processor, which is at sample 'clip-33' of shard_00001 in dataset 'clips'"
    )
    if num_threads:
        assert watch.stats.bound_by == "process"


def test_slow_reading_is_named_with_its_sample(dataset: Path) -> None:
    gate = Gate(lambda stall: stall.key == "clip-07")
    reader = LocalRetriever(dataset).open()

    # The work of a thread that decodes, as far as its watch can tell.
    def work(position: int) -> Sample:
        watch.activity().at = reader, position
        if position == 7:
            assert gate.opened.wait(300)
        return reader[position]

    watch = Watch()
    with StallWatcher(watch.look, 0.1, gate.told):
        samples = in_order(work, range(20), num_threads=2, weigh=int, size=lambda _: 8, watch=watch)
        assert len(list(samples)) == 20
    assert gate.stalls[0].cause == "decode"
    assert watch.stats.bound_by == "decode"


def test_a_loop_that_takes_its_time_does_not_stall(dataset: Path) -> None:
    gate = Gate()
    waited = threading.Event()
    watch = Watch()
    with StallWatcher(watch.look, 0.02, gate.told):
        for number, _ in enumerate(SampleStream(dataset, num_threads=2).samples(watch)):
            if number == 30:
                told = len(gate.stalls)
                waited.wait(0.2)
                assert len(gate.stalls) == told
    assert watch.stats.consumer_s >= 0.2
    assert watch.stats.bound_by == "consumer"


@threads
def test_the_times_add_up_to_the_time_that_passed(dataset: Path, num_threads: int) -> None:
    def process(sample: Sample) -> Sample:
        return dict(sample)

    watch = Watch()
    stream = SampleStream(dataset, num_threads=num_threads, processor=process, epochs=100)
    samples = stream.samples(watch)
    began = perf_counter()
    assert sum(1 for _ in samples) == 100 * CLIPS
    passed = perf_counter() - began
    stats = watch.stats
    assert 0.5 * passed <= stats.wait_s + stats.consumer_s <= passed
    assert stats.samples == 100 * CLIPS
    if num_threads:
        assert stats.sample_bytes == 100 * CLIPS * 2000 * 4
    assert watch.stats == stats  # it is over


def test_samples_that_were_made_ahead_but_not_taken_do_not_count(dataset: Path) -> None:
    for num_threads in (0, 2):
        watch = Watch()
        samples = SampleStream(dataset, num_threads=num_threads).samples(watch)
        for _ in range(17):
            next(samples)
        samples.close()
        assert watch.stats.samples == 17


def test_an_interrupted_wait_ends(dataset: Path, tmp_path: Path) -> None:
    gate, watch = Gate(), Watch()
    retriever = SlowRetriever(dataset, gate, cache_dir=tmp_path, prefetch=0)
    samples = SampleStream(retriever, num_threads=2).samples(watch)
    stalled = threading.Event()
    got: list[Sample] = []
    ended: list[BaseException] = []

    def consume() -> None:
        try:
            got.extend(samples)
        except BaseException as error:  # noqa: BLE001 (whatever ends the wait)
            ended.append(error)

    with StallWatcher(watch.look, 0.05, lambda _: stalled.set()):
        consumer = threading.Thread(target=consume)
        consumer.start()
        assert stalled.wait(300)
        watch.interrupt()
        gate.opened.set()  # a download that has begun is not broken off
        consumer.join(300)
    assert not consumer.is_alive()
    assert len(ended) == 1
    assert not [t for t in threading.enumerate() if t.name.startswith("audiomdb-stream")]
    retriever.close()


def test_a_failing_stall_watcher_does_not_stop_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    looked = threading.Event()

    def look() -> Stall | None:
        looked.set()
        raise ZeroDivisionError

    with StallWatcher(look, 0.01, log_stall()):
        assert looked.wait(300)
    assert "watching for stalls has ended" in caplog.messages


def test_every_long_wait_of_a_waiting_loop_is_logged() -> None:
    waits = iter([0.05, 50.0, 80.0, 0.05, 15.0, 20.0, 31.0, 0.05, 0.09])
    told: list[float] = []
    over = threading.Event()

    def look() -> Stall | None:
        waited_s = next(waits, None)
        if waited_s is None:
            over.set()
            return None
        return Stall(waited_s=waited_s, cause="network")

    with StallWatcher(look, 0.1, lambda stall: told.append(stall.waited_s)):
        assert over.wait(300)
    assert told == [50.0, 15.0, 31.0]


def test_without_a_limit_no_thread_is_started() -> None:
    def look() -> Iterator[None]:
        raise AssertionError("nobody asks")

    before = threading.active_count()
    with StallWatcher(look, None, log_stall()):  # type: ignore[arg-type]
        assert threading.active_count() == before


def test_stats_name_what_a_run_is_bound_by() -> None:
    assert StreamStats(consumer_s=9.1, decode_s=0.9).bound_by == "consumer"
    assert StreamStats(consumer_s=5, decode_s=1, network_s=2).bound_by == "network"
    assert StreamStats(collate_s=2).bound_by == "collate"
    assert StreamStats().bound_by == "consumer"
    total = StreamStats(samples=2, process_s=1.5).plus(StreamStats(samples=3, process_s=0.5))
    assert total == StreamStats(samples=5, process_s=2.0)
    assert str(total) == (
        "5 samples in 2.0 s, bound by process (network 0%, decode 0%, process 100%, collate 0%, "
        "consumer 0%)"
    )
    assert str(StreamStats()).startswith("0 samples in 0.0 s")
