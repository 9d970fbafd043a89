"""Several datasets read as one."""

from __future__ import annotations

import json
import logging
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.errors import PlanError, UnknownColumnError, UnknownKeyError
from audiomdb.plan import Interleave, MixPlan
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.stream import SOURCE, LoadOptions, Mixture, Part, SampleStream, StepStream
from tests.core.plans import located

SIZES = {"speech": 60, "music": 25, "noise": 7}
NOTHING = LoadOptions(fields=[])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for name, size in SIZES.items():
        folders[name] = tmp_path_factory.mktemp("data") / name
        with DatasetWriter(folders[name], name=name, samples_per_shard=8) as writer:
            for i in range(size):
                audio = np.full(80 + i, i / 100, np.float32)
                fields = {"audio": audio, "sample_rate": 8000, name: i}
                writer.write(f"{name}-{i:02d}", fields)
    return folders


def part(folders: dict[str, Path], name: str, **how: Any) -> Part:
    return Part(folders[name], **{"load": NOTHING, **how})


def all_parts(folders: dict[str, Path], **how: Any) -> list[Part | Mixture]:
    return [part(folders, name, **how) for name in SIZES]


def keys(samples: Any) -> list[str]:
    return [sample["__key__"] for sample in samples]


EVERY_KEY = sorted(f"{name}-{i:02d}" for name, size in SIZES.items() for i in range(size))


@pytest.mark.parametrize("interleave", ["pseudo", "ordered", None])
@pytest.mark.parametrize("num_threads", [0, 3])
def test_mixed_samples_follow_the_plan_and_name_their_source(
    folders: dict[str, Path], interleave: Interleave, num_threads: int
) -> None:
    mixture = Mixture(all_parts(folders, shuffle=True, window=1), interleave=interleave)
    stream = SampleStream(mixture, seed=4, num_threads=num_threads, epochs=2)
    readers = [DatasetReader.open(folders[name]) for name in SIZES]
    expected = []
    for epoch in range(2):
        plan = MixPlan(
            [reader.counts for reader in readers],
            interleave=interleave,
            seed=4,
            epoch=epoch,
            shuffle=True,
            window=1,
        )
        for source, place in zip(*located(plan, plan.positions(0, len(plan))), strict=True):
            expected.append((int(source), readers[source].key(int(place))))
    assert [(one[SOURCE], one["__key__"]) for one in stream] == expected
    assert len(stream) == 2 * len(EVERY_KEY)


def test_each_part_is_read_in_its_own_way(folders: dict[str, Path]) -> None:
    def loud(sample: Sample) -> dict[str, Any]:
        return {"peak": float(sample["audio"].max())}

    mixture = Mixture(
        [
            part(folders, "speech", load=LoadOptions(sample_rate=4000), max_duration=0.0125),
            part(folders, "music", load=LoadOptions(decode=False, fields=["music"])),
            part(folders, "noise", load=LoadOptions(processor=loud)),
        ]
    )
    by_source: dict[int, list[Sample]] = {0: [], 1: [], 2: []}
    for sample in SampleStream(mixture):
        by_source[sample[SOURCE]].append(sample)
    assert {source: len(samples) for source, samples in by_source.items()} == {0: 21, 1: 25, 2: 7}
    assert {sample["sample_rate"] for sample in by_source[0]} == {4000}
    assert set(by_source[1][0]) == {"__key__", SOURCE, "music"}
    assert set(by_source[2][0]) == {"__key__", SOURCE, "peak"}


@pytest.mark.parametrize(
    ("where", "error"),
    [
        (lambda columns: columns["snr"] > 10, UnknownColumnError),
        (lambda columns: columns["__key__"] > 10, TypeError),
        (np.ones(3, np.bool_), PlanError),
    ],
    ids=["a column that is not there", "text beside a number", "a mask of another dataset"],
)
def test_an_error_of_a_filter_names_the_dataset(
    folders: dict[str, Path], where: Any, error: type[Exception]
) -> None:
    mixture = Mixture([part(folders, "speech"), part(folders, "music", where=where)])
    with pytest.raises(error) as caught:
        list(SampleStream(mixture))
    assert caught.value.__notes__ == ["while selecting from dataset 1 ('music')"]
    with pytest.raises(error) as caught:
        list(SampleStream(folders["music"], where=where))
    assert caught.value.__notes__ == ["while selecting from dataset 'music'"]


def test_one_after_the_other_without_interleaving(folders: dict[str, Path]) -> None:
    stream = SampleStream(Mixture(all_parts(folders), interleave=None))
    assert [name.split("-")[0] for name in keys(stream)] == [
        name for name, size in SIZES.items() for _ in range(size)
    ]


def test_weights_say_how_many_come_of_each(folders: dict[str, Path]) -> None:
    parts = all_parts(folders, shuffle=True)
    stream = SampleStream(Mixture(parts, weights=[0.5, 0.3, 0.2], stop=100))
    assert Counter(sample[SOURCE] for sample in stream) == {0: 50, 1: 30, 2: 20}
    first = SampleStream(Mixture(parts, [1, 1, 1], interleave="ordered", stop="first"))
    assert [sample[SOURCE] for sample in first] == [0, 1, 2] * 7
    last = Counter(keys(SampleStream(Mixture(parts, [1, 1, 1], stop="last"))))
    assert last.keys() == set(EVERY_KEY)
    assert {last[f"speech-{i:02d}"] for i in range(60)} == {1}


def nested(folders: dict[str, Path], **how: Any) -> Mixture:
    within = Mixture([part(folders, "music", **how), part(folders, "noise", **how)], [2, 1])
    return Mixture([part(folders, "speech", **how), within], interleave="ordered")


def test_a_nested_mixture_counts_as_one_dataset(folders: dict[str, Path]) -> None:
    stream = SampleStream(nested(folders, shuffle=True))
    met = Counter(sample[SOURCE] for sample in stream)
    # The one within ends with its last sample of music, the 25th.
    assert met[0] == 60
    assert met[1] == 25
    assert met[2] in (12, 13)
    assert len(stream) == sum(met.values())


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 3), (2, 2), (3, 1), (4, 3)])
@pytest.mark.parametrize("partitions", [1, 4])
def test_over_ranks_and_workers_each_sample_comes_once(
    folders: dict[str, Path], world_size: int, num_workers: int, partitions: int
) -> None:
    met: list[str] = []
    for rank in range(world_size):
        for worker in range(num_workers):
            stream = SampleStream(
                Mixture(all_parts(folders, shuffle=True)),
                partitions=partitions,
                rank=rank,
                world_size=world_size,
                worker=worker,
                num_workers=num_workers,
                tail="uneven",
            )
            met += keys(stream)
    assert sorted(met) == EVERY_KEY


def test_steps_of_a_mixture_are_the_same_for_every_world(folders: dict[str, Path]) -> None:
    def steps(world_size: int) -> list[list[str]]:
        ranks = [
            StepStream(
                nested(folders, shuffle=True), 12, tail="pad", rank=rank, world_size=world_size
            ).read(epochs=2)
            for rank in range(world_size)
        ]
        return [
            [key for batch in step for key in keys(batch.samples)]
            for step in zip(*ranks, strict=True)
        ]

    assert steps(1) == steps(2) == steps(4)


def test_positions_run_through_all_parts_and_keys_are_found_in_all(
    folders: dict[str, Path],
) -> None:
    stream = SampleStream(Mixture(all_parts(folders)))
    assert (stream[60]["__key__"], stream[60][SOURCE]) == ("music-00", 1)
    assert stream[-1]["__key__"] == "noise-06"
    assert stream["noise-03"][SOURCE] == 2
    with pytest.raises(IndexError, match="position 92 is outside of 92 samples"):
        stream[92]
    with pytest.raises(UnknownKeyError, match=r"'x' in any of speech, music, noise"):
        stream["x"]


def test_a_part_alone_is_the_dataset(folders: dict[str, Path]) -> None:
    alone = SampleStream(folders["speech"], shuffle=True, fields=["speech"], max_duration=0.015)
    assert list(alone) == list(
        SampleStream(
            part(
                folders,
                "speech",
                shuffle=True,
                max_duration=0.015,
                load=LoadOptions(fields=["speech"]),
            )
        )
    )
    with pytest.raises(ValueError, match="shuffle, load: a Part says itself how it is read"):
        SampleStream(part(folders, "speech"), shuffle=True, mono=True)
    with pytest.raises(ValueError, match="where: a Mixture says itself"):
        StepStream(Mixture(all_parts(folders)), 4, where=np.ones(3, np.bool_))


def test_a_stream_of_a_mixture_pickles_and_closes_what_it_opened(folders: dict[str, Path]) -> None:
    retriever = LocalRetriever(folders["music"])
    reader = retriever.open()
    mixture = Mixture([part(folders, "speech"), Part(retriever, load=NOTHING)])
    with SampleStream(mixture) as stream:
        copy = pickle.loads(pickle.dumps(stream))
        assert keys(copy) == keys(stream)
    assert retriever.open() is reader


def test_another_mixture_is_refused_by_name(folders: dict[str, Path]) -> None:
    def stream(**how: Any) -> StepStream:
        return StepStream(Mixture(all_parts(folders), **how), 4)

    state = stream(weights=[1, 2, 3]).state(2, 1)
    assert len(json.dumps(state.to_dict())) < 1000
    with pytest.raises(PlanError, match=r"weights was \[1, 2, 3\] and is \[1, 2, 4\]"):
        next(stream(weights=[1, 2, 4]).read(state))
    with pytest.raises(PlanError, match="interleave was 'pseudo' and is 'ordered'"):
        next(stream(weights=[1, 2, 3], interleave="ordered").read(state))
    swapped = Mixture([*all_parts(folders)[1:], part(folders, "speech")], [1, 2, 3])
    with pytest.raises(PlanError, match=r"samples was \[60, 25, 7\] and is \[25, 7, 60\]"):
        next(StepStream(swapped, 4).read(state))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixture([]), "at least one dataset"),
        (lambda: Mixture([Part("x")], [1, 2]), "2 weights for 1 datasets"),
        (lambda: Mixture([Part("x"), Mixture([Part("y")], [-1])]), "weight 0 is -1"),
        (lambda: Mixture([Part("x"), Part("y")], [1e-300, 1]), "weight 0 is 1e-300"),
        (lambda: Mixture([Part("x", window=-1)]), "window must be"),
        (lambda: Mixture([Part("x"), Part("y")], stop="first"), "stop='first' needs weights"),
        (lambda: Mixture([Part("x")], None, "random"), "interleave must be one of"),  # type: ignore[arg-type]
    ],
)
def test_impossible_mixtures_are_refused_at_once(make: Callable[[], Mixture], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make()


def test_a_part_without_samples_takes_no_part(folders: dict[str, Path], tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "empty"):
        pass
    empty = Part(tmp_path / "empty", load=NOTHING)
    parts = [part(folders, "noise"), empty, part(folders, "music", max_duration=0.001)]
    assert keys(SampleStream(Mixture(parts))) == [f"noise-{i:02d}" for i in range(7)]
    with pytest.raises(PlanError, match="dataset 1 has a weight but no samples"):
        list(SampleStream(Mixture(parts, weights=[1, 1, 1])))
    assert list(SampleStream(Mixture([empty, empty]), epochs=None)) == []
    assert list(StepStream(Mixture([empty, empty]), 2).read(epochs=None)) == []


@pytest.mark.parametrize("by_steps", [False, True])
def test_a_dataset_that_no_epoch_reads_is_logged(
    folders: dict[str, Path], by_steps: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def said(mixture: Mixture) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "audiomdb.stream"):
            if by_steps:
                got = [one for step in StepStream(mixture, 1).read() for one in step.samples]
            else:
                got = list(SampleStream(mixture, epochs=3))
        come = {sample[SOURCE] for sample in got}
        missing = [f"dataset {at} ({name})" for at, name in enumerate(SIZES) if at not in come]
        assert all(one in record.getMessage() for one in missing for record in caplog.records)
        assert len(caplog.records) == (1 if missing else 0)
        return missing

    speech, music, noise = all_parts(folders)
    within = Mixture([music, noise], weights=[1, 0.01], stop=20)
    too_short = part(folders, "music", max_duration=0.001)
    assert said(Mixture([speech, music, noise], weights=[1, 1, 0.01], stop=20)) == [
        "dataset 2 (noise)"
    ]
    assert said(Mixture([speech, within])) == ["dataset 2 (noise)"]
    assert said(Mixture([speech, within], weights=[1, 0.01], stop=20)) == [
        "dataset 1 (music)",
        "dataset 2 (noise)",
    ]
    assert said(Mixture([speech, too_short, noise])) == ["dataset 1 (music)"]
    assert said(Mixture([speech, music, noise], weights=[1, 1, 0.01], stop=120)) == []
