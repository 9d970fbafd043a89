"""Steps decoded: made by the plan, gone on with anywhere."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.errors import PlanError
from audiomdb.plan import PlanState
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.sample import Sample
from audiomdb.shards import DatasetWriter
from audiomdb.stream import StepStream
from tests.core.caches import CopyRetriever

CLIPS = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    with DatasetWriter(path, samples_per_shard=9) as writer:
        for i in range(CLIPS):
            audio = np.full(80 + i, i / CLIPS, np.float32)
            writer.write(f"{i:03d}", {"audio": audio, "sample_rate": 8000})
    return path


def keys(samples: list[Sample]) -> list[str]:
    return [sample["__key__"] for sample in samples]


def steps(
    folder: Path, start: PlanState | None = None, *, ranks: int = 1, workers: int = 1, **how: Any
) -> list[list[str]]:
    """All steps, put together from what the workers of all ranks make of them."""
    epochs = how.pop("epochs", 1)
    made = []
    for rank in range(ranks):
        each = [
            StepStream(
                folder, 12, rank=rank, world_size=ranks, worker=worker, num_workers=workers, **how
            ).read(start, epochs=epochs)
            for worker in range(workers)
        ]
        mine: list[list[str]] = []
        while each:
            for stream in list(each):
                batch = next(stream, None)
                if batch is None:
                    each.remove(stream)
                else:
                    mine.append(keys(batch.samples))
        made.append(mine)
    return [sum(parts, []) for parts in zip(*made, strict=True)]  # noqa: RUF017 (a few)


@pytest.mark.parametrize("options", [{"tail": "drop"}, {"tail": "pad", "partitions": 3}])
def test_steps_are_the_same_for_every_world(folder: Path, options: dict[str, Any]) -> None:
    expected = steps(folder, shuffle=True, epochs=2, **options)
    assert len(expected) == 2 * (8 if options["tail"] == "drop" else 9)
    for ranks, workers, threads in [(1, 2, 0), (2, 1, 3), (3, 2, 1), (4, 3, 0), (6, 1, 2)]:
        got = steps(
            folder,
            ranks=ranks,
            workers=workers,
            num_threads=threads,
            shuffle=True,
            epochs=2,
            **options,
        )
        assert got == expected


def test_padding_is_marked(folder: Path) -> None:
    with StepStream(folder, 12, tail="pad") as stream:
        samples = [sample for batch in stream.read() for sample in batch.samples]
    assert len(samples) == 108
    assert sorted(keys([one for one in samples if one["__mask__"]])) == [
        f"{i:03d}" for i in range(CLIPS)
    ]


def test_an_uneven_tail_gives_ranks_the_remaining_samples(folder: Path) -> None:
    last = [
        list(StepStream(folder, 12, tail="uneven", rank=rank, world_size=6).read())[-1]
        for rank in range(6)
    ]
    assert [len(batch.samples) for batch in last] == [1, 1, 0, 1, 1, 0]
    assert {batch.following.epoch for batch in last} == {1}


def test_filters_leave_the_order_of_the_rest(folder: Path) -> None:
    def order(**how: Any) -> list[str]:
        return [key for step in steps(folder, shuffle=True, tail="uneven", **how) for key in step]

    everything = order()
    assert order(min_duration=0.0125) == [key for key in everything if int(key) >= 20]
    odd = order(where=lambda columns: np.arange(len(columns["duration"])) % 2 == 1)
    assert odd == [key for key in everything if int(key) % 2 == 1]


def test_another_plan_is_refused_by_name(folder: Path) -> None:
    state = StepStream(folder, 12, shuffle=True).state(3, 2)
    with pytest.raises(PlanError, match="batch_size was 12 and is 24"):
        next(StepStream(folder, 24, shuffle=True).read(state))
    with pytest.raises(PlanError, match="selection was None and is '"):
        next(StepStream(folder, 12, shuffle=True, max_duration=0.02).read(state))
    with pytest.raises(PlanError, match="tail was 'drop' and is 'pad'"):
        next(StepStream(folder, 12, shuffle=True, tail="pad").read(state))
    with pytest.raises(PlanError, match="batch_size 12 cannot be shared evenly by 5 ranks"):
        StepStream(folder, 12, rank=0, world_size=5)


def test_a_stream_of_steps_pickles_and_knows_its_steps(folder: Path) -> None:
    stream = pickle.loads(pickle.dumps(StepStream(folder, 30, shuffle=True)))
    assert stream.steps == 3
    assert len(list(stream.read())) == 3
    assert list(StepStream(folder, 200).read(epochs=None)) == []


def test_the_next_batch_is_whole_when_it_is_asked_for_however_large(folder: Path) -> None:
    """Of clips that are more than are held otherwise: a step that takes long waits for none."""
    size, begun, whole = 12, [0], threading.Event()

    def large(sample: Sample) -> Sample:
        begun[0] += 1
        if begun[0] == 2 * size:
            whole.set()
        # Twelve of them are 384 MB, of memory that is never touched.
        return {**sample, "features": np.zeros(8 << 20, np.float32)}

    batches = StepStream(folder, size, num_threads=1, processor=large).read()
    assert len(next(batches).samples) == size
    assert whole.wait(300)
    batches.close()


def fail_on(key: str) -> Callable[[Sample], Sample]:
    def process(sample: Sample) -> Sample:
        if sample["__key__"] == key:
            raise RuntimeError("spoilt")
        return sample

    return process


def test_a_failure_is_raised_where_its_batch_would_have_come(folder: Path) -> None:
    stream = StepStream(folder, 10, processor=fail_on("025")).read()
    assert [len(batch.samples) for batch in islice(stream, 2)] == [10, 10]
    with pytest.raises(RuntimeError, match="spoilt"):
        next(stream)


@pytest.mark.parametrize("shards", [None, 4])
def test_steps_come_through_a_cache_of_any_size(
    folder: Path, tmp_path: Path, shards: int | None
) -> None:
    with LocalRetriever(folder).open() as reader:
        room = 2**16 + max(shard.bytes for shard in reader.metadata.shards) * (shards or 0)
    retriever = CopyRetriever(
        folder, cache_dir=tmp_path, max_cache_bytes=room if shards else None, prefetch=1
    )
    for partitions, tail in [(1, "drop"), (3, "pad")]:
        how: dict[str, Any] = {
            "shuffle": True,
            "window": 0,
            "tail": tail,
            "partitions": partitions,
        }
        expected = steps(folder, epochs=2, **how)
        assert [
            keys(batch.samples)
            for batch in StepStream(retriever, 12, num_threads=2, **how).read(epochs=2)
        ] == expected
        middle = StepStream(retriever, 12, **how)
        later = [keys(batch.samples) for batch in middle.read(middle.state(1, 5))]
        assert later == expected[len(expected) // 2 + 5 :]
    retriever.close()
