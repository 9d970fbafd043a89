"""Runs that stop anywhere and go on with other numbers of ranks, workers and threads."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.errors import PlanError
from audiomdb.plan import PlanState
from audiomdb.shards import DatasetWriter, ShardReader
from audiomdb.stream import BySeconds, LoadOptions, Mixture, Part, SampleStream, StepStream

INTERRUPTIONS = 40  # of each kind of stream
LOAD = LoadOptions(fields=["duration"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = []
    for number, size in enumerate([150, 61, 5]):
        folders.append(tmp_path_factory.mktemp("data") / "clips")
        with DatasetWriter(folders[-1], samples_per_shard=11) as writer:
            for i in range(size):
                audio = np.zeros(50 + 37 * i % 350, np.float32)
                writer.write(f"{number}-{i:03d}", {"audio": audio, "sample_rate": 100})
    return folders


def one(folders: list[Path]) -> Part:
    return Part(folders[0], shuffle=True, window=2, load=LOAD)


def mixed(folders: list[Path]) -> Mixture:
    parts: list[Part | Mixture] = [Part(one, shuffle=True, load=LOAD) for one in folders[1:]]
    return Mixture([one(folders), Mixture(parts, weights=[3, 1])], weights=[2, 1], stop=130)


SECONDS = BySeconds(7.0, slots=12, num_buckets=3, increment=8, max_age=3, chapter=5)
KINDS: dict[str, tuple[Any, int | BySeconds, dict[str, Any]]] = {
    "drop": (one, 12, {}),
    "pad": (one, 12, {"tail": "pad", "partitions": 3}),
    "seconds": (one, SECONDS, {}),
    "seconds of partitions": (one, SECONDS, {"partitions": 2}),
    "mixture": (mixed, 12, {"tail": "pad", "partitions": 2}),
    "seconds of a mixture": (mixed, SECONDS, {"partitions": 2}),
}


class Run:
    """A stream of one kind, read in any world."""

    def __init__(self, folders: list[Path], kind: str) -> None:
        what, self.batches, self.how = KINDS[kind]
        self.what = what(folders)

    def stream(self, rank: int = 0, ranks: int = 1, **how: Any) -> StepStream:
        how = {**self.how, "seed": 5, **how}
        return StepStream(self.what, self.batches, rank=rank, world_size=ranks, **how)

    def undisturbed(self) -> Iterator[list[str]]:
        for step in self.stream(num_threads=0).read(epochs=None):
            yield [sample["__key__"] for sample in step.samples]

    def some(
        self, state: PlanState | None, steps: int, ranks: int, workers: int, threads: int
    ) -> tuple[list[list[str]], PlanState]:
        """What all ranks read from a state on, and where they stand."""
        parts, ends = [], set()
        for rank in range(ranks):
            how = {"num_workers": workers, "num_threads": threads}
            each = [
                self.stream(rank, ranks, worker=worker, **how).read(state, epochs=None)
                for worker in range(workers)
            ]
            mine = [next(each[at % workers]) for at in range(steps)]
            for stream in each:
                stream.close()
            parts.append([[sample["__key__"] for sample in step.samples] for step in mine])
            ends.add(json.dumps(mine[-1].following.to_dict()))
        assert len(ends) == 1
        end = ends.pop()
        assert len(end) < 1000
        together = [[key for part in step for key in part] for step in zip(*parts, strict=True)]
        return together, PlanState.from_dict(json.loads(end))


@pytest.mark.parametrize("kind", KINDS)
def test_interruptions_do_not_change_the_steps(folders: list[Path], kind: str) -> None:
    draw = random.Random(kind)
    run = Run(folders, kind)
    expected, state = run.undisturbed(), None
    for _ in range(INTERRUPTIONS):
        steps, ranks, workers = (
            draw.randint(1, 6),
            draw.choice([1, 2, 3, 4]),
            draw.choice([1, 2, 3]),
        )
        got, state = run.some(state, steps, ranks, workers, draw.choice([0, 0, 2]))
        assert got == list(islice(expected, steps))


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_of_steps_ends_anywhere(folders: list[Path], kind: str) -> None:
    run = Run(folders, kind)
    expected, state, done = run.undisturbed(), run.stream().state(), 0
    for steps, workers in [(1, 1), (7, 2), (2, 3), (19, 1), (31, 2), (0, 2)]:
        streams = [run.stream(worker=one, num_workers=workers) for one in range(workers)]
        each = [list(one.read(state, epochs=None, steps=steps)) for one in streams]
        assert sum(map(len, each)) == steps
        made = [each[at % workers][at // workers] for at in range(steps)]
        assert [keys(step.samples) for step in made] == list(islice(expected, steps))
        done += steps
        state = run.stream().state_after(done)
        assert all(step.following == state for step in made[-1:])


class _Counted:
    """Counts the records that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads = 0
        read = ShardReader.read

        def counting(reader: ShardReader, *args: Any, **how: Any) -> Any:
            self.reads += 1
            return read(reader, *args, **how)

        monkeypatch.setattr(ShardReader, "read", counting)


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_reads_no_consumed_samples(
    folders: list[Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(folders, kind)
    steps = list(run.stream(num_threads=0).read(epochs=2))
    later = steps[3 * len(steps) // 4]
    counted = _Counted(monkeypatch)
    again = next(run.stream(num_threads=0).read(later.place, epochs=None))
    assert counted.reads == len(again.samples) == len(later.samples)


def keys(samples: Any) -> list[str]:
    return [sample["__key__"] for sample in samples]


@pytest.mark.parametrize("tail", ["uneven", "pad"])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (1, 3), (3, 1), (2, 2)])
def test_samples_resume_after_any_sample_with_the_same_world(
    folders: list[Path], ranks: int, workers: int, tail: Any
) -> None:
    draw = random.Random(f"{ranks} {workers}")
    for rank in range(ranks):
        for worker in range(workers):
            how: dict[str, Any] = {
                "rank": rank,
                "world_size": ranks,
                "worker": worker,
                "num_workers": workers,
                "partitions": 2,
                "tail": tail,
                "num_threads": 0,
            }
            stream = SampleStream(mixed(folders), **how)
            expected = keys(stream) + keys(stream) + keys(stream)
            got: list[str] = []
            state: dict[str, Any] | None = None
            while len(got) < len(expected):
                stream = SampleStream(mixed(folders), epochs=None, **how)
                if state is not None:
                    stream.load_state_dict(state)
                    assert stream.state_dict() == state
                reading = iter(stream)
                got += keys(islice(reading, draw.randint(1, 50)))
                state = json.loads(json.dumps(stream.state_dict()))
                assert len(json.dumps(state)) < 1000
            assert got[: len(expected)] == expected


def test_samples_resume_with_other_ranks_after_even_shares(
    folders: list[Path],
) -> None:
    def run(ranks: int, state: dict[str, Any] | None, each: int | None) -> tuple[Any, Any]:
        parts, states = [], []
        for rank in range(ranks):
            stream = SampleStream(one(folders), rank=rank, world_size=ranks, partitions=2)
            if state is not None:
                stream.load_state_dict(state)
            parts.append(keys(islice(iter(stream), each)))
            states.append(stream.state_dict())
        assert all(state == states[0] for state in states)
        return sorted(key for part in parts for key in part), states[0]

    first, state = run(4, None, 9)  # 36 samples
    second, state = run(3, state, 8)  # 24
    third, state = run(1, state, None)
    assert len(first) + len(second) + len(third) == 150
    assert len({*first, *second, *third}) == 150
    assert (state["epoch"], state["next_step"]) == (1, 0)
    with pytest.raises(PlanError, match="no common place; they have after 6 and 8"):
        run(4, {**run(2, None, 7)[1]}, 1)


def test_workers_resume_with_the_same_number_or_at_an_epoch(folders: list[Path]) -> None:
    def stream(workers: int) -> SampleStream:
        return SampleStream(one(folders), num_workers=workers, worker=workers - 1)

    two = stream(2)
    list(islice(iter(two), 5))
    state = two.state_dict()
    for others in (1, 3):
        with pytest.raises(PlanError, match=r"5 samples of each of 1 ranks of 2 workers"):
            stream(others).load_state_dict(state)
    list(two)
    assert two.state_dict()["epoch"] == 2
    assert two.state_dict(of_pass=True)["epoch"] == 1
    at_its_end = stream(2)
    at_its_end.load_state_dict(two.state_dict(of_pass=True))
    assert list(at_its_end) == []
    later = stream(3)
    later.load_state_dict(two.state_dict())
    assert later.state_dict()["epoch"] == 2
    assert len(list(later)) == 50


def test_a_state_of_other_samples_is_refused(folders: list[Path]) -> None:
    stream = SampleStream(one(folders))
    with pytest.raises(PlanError, match="samples was 150 and is 61"):
        SampleStream(folders[1], shuffle=True, window=2).load_state_dict(stream.state_dict())
    with pytest.raises(PlanError, match="seed was 0 and is 1"):
        SampleStream(one(folders), seed=1).load_state_dict(stream.state_dict())
    with pytest.raises(PlanError, match="lacks world_size, num_workers"):
        stream.load_state_dict(StepStream(one(folders), 2).state().to_dict())
