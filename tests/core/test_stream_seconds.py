"""Steps by seconds, decoded."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.errors import PlanError
from audiomdb.plan import EpochPlan, PlanState, SecondsPlan, even_borders
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.stream import (
    BySeconds,
    LoadOptions,
    Mixture,
    Part,
    SampleStream,
    StepBatch,
    StepStream,
)
from audiomdb.stream.by_seconds import EpochBySeconds
from audiomdb.stream.crops import Crop
from audiomdb.stream.findings import Findings
from audiomdb.stream.reading import Reading

CLIPS = 300
RATE = 100
NOTHING = LoadOptions(fields=["duration"])
SMALL = BySeconds(12.0, num_buckets=4, increment=10, max_age=6, chapter=8)
"""Four chapters of the 300 clips."""


def seconds(number: int) -> float:
    return (50 + number * 37 % 350) / RATE


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folders = []
    for name, size in (("a", CLIPS), ("b", 80)):
        folders.append(tmp_path_factory.mktemp("data") / name)
        with DatasetWriter(folders[-1], samples_per_shard=30) as writer:
            for i in range(size):
                audio = np.zeros(round(seconds(i) * RATE), np.float32)
                writer.write(f"{name}{i:03d}", {"audio": audio, "sample_rate": RATE})
    return folders[0], folders[1]


def stream(folder: Path, batches: BySeconds = SMALL, **how: Any) -> StepStream:
    return StepStream(folder, batches, **{"shuffle": True, "fields": ["duration"], **how})


def keys(step: StepBatch) -> list[list[str]]:
    return [[sample["__key__"] for sample in batch] for batch in step.batches]


def counted(steps: Iterator[StepBatch]) -> list[str]:
    return sorted(
        sample["__key__"] for step in steps for sample in step.samples if sample["__mask__"]
    )


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_sample_comes_once_in_batches_that_fit(
    folders: tuple[Path, Path], ranks: int, partitions: int
) -> None:
    how: dict[str, Any] = {"partitions": partitions, "world_size": ranks}
    by_rank = [list(stream(folders[0], rank=rank, **how).read()) for rank in range(ranks)]
    assert len({len(steps) for steps in by_rank}) == 1
    assert counted(step for steps in by_rank for step in steps) == [
        f"a{i:03d}" for i in range(CLIPS)
    ]
    slots = max(ranks, partitions)
    for step in zip(*by_rank, strict=True):
        batches = [batch for part in step for batch in part.batches]
        assert len(batches) == slots
        for batch in batches:
            assert batch
            assert len(batch) * max(sample["duration"] for sample in batch) <= 12.0


def test_steps_are_the_same_for_every_world(folders: tuple[Path, Path]) -> None:
    def steps(ranks: int, workers: int = 1) -> list[list[list[str]]]:
        parts = []
        for rank in range(ranks):
            each = [
                stream(
                    folders[0],
                    BySeconds(12.0, slots=4, num_buckets=4, increment=10, chapter=8),
                    rank=rank,
                    world_size=ranks,
                    worker=worker,
                    num_workers=workers,
                    partitions=2,
                ).read(epochs=2)
                for worker in range(workers)
            ]
            parts.append([keys(step) for step in taking_turns(each)])
        return [[batch for part in step for batch in part] for step in zip(*parts, strict=True)]

    expected = steps(1)
    assert steps(2, 3) == expected
    assert steps(4, 2) == expected


def taking_turns(workers: list[Any]) -> Iterator[StepBatch]:
    while workers:
        for worker in list(workers):
            step = next(worker, None)
            if step is None:
                workers.remove(worker)
            else:
                yield step


def test_a_stream_by_seconds_resumes_at_any_step(folders: tuple[Path, Path]) -> None:
    with stream(folders[0], num_threads=0) as everything:
        steps = list(everything.read(epochs=2))
    places = [step.place for step in steps]
    assert [step.following for step in steps[:-1]] == places[1:]
    assert {place.chapter for place in places} == {0, 1, 2, 3}
    assert {place.epoch for place in places} == {0, 1}
    for at in range(0, len(steps), 11):
        state = PlanState.from_dict(json.loads(json.dumps(places[at].to_dict())))
        later = list(stream(folders[0], num_threads=0).read(state, epochs=2 - state.epoch))
        assert [keys(step) for step in later] == [keys(step) for step in steps[at:]]


def test_resuming_by_seconds_makes_only_one_chapter(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from audiomdb.plan.chapters import ChapterMaker

    made: list[int] = []
    steps = ChapterMaker.steps

    def noted(self: ChapterMaker, parts: Any) -> Any:
        made.append(sum(len(part[0]) for part in parts))
        return steps(self, parts)

    monkeypatch.setattr(ChapterMaker, "steps", noted)
    here = stream(folders[0])
    next(here.read(here.state(0, 1, chapter=2)))
    assert made == [80]


def test_the_report_counts_what_the_steps_hold(folders: tuple[Path, Path]) -> None:
    here = stream(folders[0], rank=0, world_size=2, seed=3)
    ranks = [
        list(stream(folders[0], world_size=2, rank=rank, seed=3).read(here.state(1)))
        for rank in range(2)
    ]
    report = here.report(1)
    assert report.steps == len(ranks[0]) == here.steps_in(1)
    assert report.samples == CLIPS
    padded = held = short = 0.0
    for step in zip(*ranks, strict=True):
        full = True
        for part in step:
            for batch in part.batches:
                real = [sample["duration"] for sample in batch if sample["__mask__"]]
                held += 12.0
                padded += len(real) * max(real, default=0.0)
                full &= bool(real) and len(real) >= 0.75 * int(12.0 / max(real) + 1e-9)
        short += not full
    assert report.padded_seconds == pytest.approx(padded)
    assert report.fill == pytest.approx(padded / held)
    assert report.short_steps == short
    assert 0 < report.padding < 0.3
    with pytest.raises(PlanError, match="only batches by seconds have a report"):
        StepStream(folders[0], 4).report()


def test_filters_leave_out_what_would_not_fit(folders: tuple[Path, Path]) -> None:
    with pytest.raises(PlanError, match=r"sample 'a\d+' of dataset .* lasts 3.\d+ s, .* min_dur"):
        next(stream(folders[0], BySeconds(3.0)).read())
    fitting = stream(folders[0], BySeconds(3.0), max_duration=3.0)
    assert counted(fitting.read()) == [f"a{i:03d}" for i in range(CLIPS) if seconds(i) <= 3.0]


def test_a_mixture_is_packed_as_one(folders: tuple[Path, Path]) -> None:
    parts: list[Part | Mixture] = [
        Part(folders[0], shuffle=True, load=NOTHING),
        Part(folders[1], shuffle=True, max_duration=2.0, load=NOTHING),
    ]
    here = StepStream(Mixture(parts), SMALL)
    expected = [f"a{i:03d}" for i in range(CLIPS)]
    expected += [f"b{i:03d}" for i in range(80) if seconds(i) <= 2.0]
    assert counted(here.read()) == expected
    weighted = StepStream(Mixture(parts, weights=[1, 1], stop=500), SMALL, partitions=2)
    steps = list(weighted.read())
    sources = [one["__source__"] for step in steps for one in step.samples if one["__mask__"]]
    assert (sources.count(0), sources.count(1)) == (250, 250)
    assert any(len({one["__source__"] for one in step.samples}) == 2 for step in steps)
    middle = steps[len(steps) // 2]
    later = [keys(step) for step in weighted.read(middle.place)]
    assert later == [keys(step) for step in steps[len(steps) // 2 :]]


def test_crops_are_packed_by_their_own_length(folders: tuple[Path, Path]) -> None:
    part = Part(folders[0], shuffle=True, load=LoadOptions(crop=Crop(1.0)))
    steps = list(StepStream(part, BySeconds(10.0, num_buckets=1)).read())
    assert sum(len(step.samples) for step in steps) >= CLIPS
    assert len(steps) <= CLIPS // 10 + 1
    assert all(len(sample["audio"]) <= RATE for step in steps for sample in step.samples)


def test_padding_of_crops_counts_toward_batch_seconds(folders: tuple[Path, Path]) -> None:
    part = Part(folders[0], shuffle=True, load=LoadOptions(crop=Crop(3.0, short_clips="pad")))
    steps = list(StepStream(part, BySeconds(10.0, num_buckets=4)).read())
    assert counted(iter(steps)) == [f"a{i:03d}" for i in range(CLIPS)]
    assert {len(sample["audio"]) for step in steps for sample in step.samples} == {3 * RATE}
    assert {len(step.samples) for step in steps} == {3}
    with pytest.raises(PlanError, match=r"lasts 3\.0 s, .* at most max_batch_seconds=2\.9"):
        next(StepStream(part, BySeconds(2.9)).read())


def test_other_crops_are_another_plan(folders: tuple[Path, Path]) -> None:
    def cut(crop: Crop | None) -> StepStream:
        return StepStream(
            Part(folders[0], load=LoadOptions(crop=crop)), BySeconds(9, num_buckets=1)
        )

    state = cut(Crop(1.0)).state(0, 1)
    assert next(cut(Crop(1.0, seed=5)).read(state)).place == state  # of the same length
    for other, now in (
        (Crop(1.5), r"\[\[1.5, 'keep'\]\]"),
        (Crop(1.0, short_clips="pad"), "'pad'"),
    ):
        with pytest.raises(PlanError, match=rf"crops was \[\[1.0, 'keep'\]\] and is .*{now}"):
            next(cut(other).read(state))
    with pytest.raises(PlanError, match=r"and is not given"):
        next(cut(None).read(state))


def test_a_stream_by_seconds_pickles_without_its_columns(folders: tuple[Path, Path]) -> None:
    here = stream(folders[0])
    before = len(pickle.dumps(here))
    first = next(here.read())
    copy = pickle.loads(pickle.dumps(here))
    assert len(pickle.dumps(here)) < before + 100  # the fingerprint of the datasets
    assert keys(next(copy.read())) == keys(first)


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ({"max_batch_seconds": 0}, {}, "max_batch_seconds is 0"),
        ({"num_buckets": 0}, {}, "num_buckets must be"),
        ({"max_batch_size": 0}, {}, "max_batch_size must be"),
        ({"slots": 3}, {"rank": 0, "world_size": 2}, "slots 3 cannot be shared evenly"),
        ({"slots": 4}, {"partitions": 3}, "slots 4 cannot be shared evenly by 3 part"),
        ({"max_age": 0}, {}, "max_age must be"),
    ],
)
def test_impossible_options_are_refused_at_once(
    batches: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        StepStream("nowhere", BySeconds(**{"max_batch_seconds": 9, **batches}), **options)
    with pytest.raises(ValueError, match="by seconds every sample comes once"):
        StepStream("nowhere", BySeconds(9), tail="pad")


def test_another_packing_is_refused_by_name(folders: tuple[Path, Path]) -> None:
    state = stream(folders[0]).state()
    with pytest.raises(PlanError, match=r"max_batch_seconds was 12.0 and is 13.0"):
        next(stream(folders[0], BySeconds(13.0, increment=10, max_age=6, chapter=8)).read(state))
    with pytest.raises(PlanError, match=r"slots was 1 and is 2"):
        next(stream(folders[0], rank=0, world_size=2).read(state))
    with pytest.raises(PlanError, match=r"max_batch_seconds was 12.0 and is not given"):
        next(StepStream(folders[0], 4, shuffle=True).read(state))
    with pytest.raises(PlanError, match=r"batch_size was 4 and is not given"):
        SampleStream(folders[0]).load_state_dict(
            {**StepStream(folders[0], 4).state().to_dict(), "world_size": 1, "num_workers": 1}
        )


@pytest.mark.parametrize("seed", range(8))
def test_a_worker_by_seconds_requests_only_the_shards_of_its_steps(seed: int) -> None:
    plan = EpochPlan([10] * 30, seed=seed, shuffle=True, window=0)
    durations = np.array([seconds(i) for i in range(CLIPS)])
    borders = even_borders(durations, 4)
    how: dict[str, Any] = {"increment": 10, "max_age": 6, "chapter": 8}
    made = SecondsPlan(plan, durations, max_batch_seconds=12.0, slots=1, borders=borders, **how)
    epoch = EpochBySeconds(made, [])
    numbers = range(epoch.count(epoch.chapters - 1))
    part = epoch.chapter(epoch.chapters - 1, numbers, 0, 1)
    used = [{at // 10 for slot in part.slots(n) for at in slot.positions} for n in numbers]
    at_a_time = [len(set().union(*used[: n + 1]) & set().union(*used[n:])) for n in numbers]
    assert part.at_once() == [max(at_a_time)]


@pytest.mark.parametrize("mixed", [False, True])
def test_the_durations_of_windows_and_mixtures_take_eight_bytes_a_sample(
    tmp_path: Path, mixed: bool
) -> None:
    path, samples = tmp_path / "texts", 20_000
    with DatasetWriter(path) as writer:
        for i in range(samples):
            writer.write(f"{i}", {"duration": seconds(i)})
    windows = LoadOptions(crop=Crop(3.0))
    with DatasetReader.open(path) as one, DatasetReader.open(path) as other:
        what: Part | Mixture = Part(one, load=windows)
        if mixed:
            what = Mixture([Part(one), Part(other)])
        tracemalloc.start()
        try:
            durations = Reading(what, Findings()).durations()
            kept_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(durations) == (2 if mixed else 1) * samples
    assert kept_bytes < 1.5 * 8 * len(durations)
