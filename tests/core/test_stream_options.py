"""Options that cannot be meant are refused where they are given, in the words of who gives them."""

from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.cache import CacheOptions
from audiomdb.errors import CacheTooSmallError, DatasetNotFoundError, PlanError
from audiomdb.plan import PlanState
from audiomdb.processors.base import BaseProcessor
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.stream import (
    BySeconds,
    Crop,
    LoadOptions,
    Mixture,
    Part,
    SampleStream,
    StepStream,
    open_dataset,
)
from tests.core.caches import CopyRetriever


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    with DatasetWriter(path, samples_per_shard=2) as writer:
        for i in range(12):
            blob = np.random.default_rng(i).bytes(20_000)
            writer.write(f"clip-{i:02d}", {"blob": blob, "digit": str(i), "duration": float(i)})
    return path


@pytest.mark.parametrize(
    "wrong",
    [
        {"shuffle": "yes"},
        {"shuffle": 1},
        {"sample_rate": "16000"},
        {"sample_rate": 16000.0},
        {"sample_rate": True},
        {"processor": 5},
        {"processor": BaseProcessor},
        {"min_duration": "5"},
        {"max_duration": [5]},
        {"max_cache_bytes": "50GB"},
        {"prefetch": None},
        {"workers": 0},
    ],
    ids=str,
)
def test_a_value_of_the_wrong_kind_is_named(wrong: dict[str, Any]) -> None:
    cache = {"max_cache_bytes": "max_bytes", "prefetch": "prefetch", "workers": "workers"}
    ((name, value),) = wrong.items()
    make: Any = partial(SampleStream, "clips", **wrong)
    if name in cache:
        make = partial(CacheOptions, **{cache[name]: value})
    with pytest.raises(
        (TypeError, ValueError), match=f"{name}.* (is .*, expected|must be a whole number)"
    ):
        make()


@pytest.mark.parametrize(
    ("several", "which"), [({"num_workers": 4}, "worker"), ({"world_size": 2}, "rank")]
)
def test_ranks_and_workers_must_say_which_one_they_are(
    dataset: Path, several: dict[str, Any], which: str
) -> None:
    makes: list[Any] = [SampleStream, open_dataset, partial(StepStream, batch_size=4)]
    for make in makes:
        with pytest.raises(PlanError, match=f"say with {which}= which of them this is"):
            make(dataset, **several)
    parts = [
        sample["digit"]
        for number in range(next(iter(several.values())))
        for sample in SampleStream(dataset, **{**several, which: number})
    ]
    assert sorted(parts, key=int) == [str(i) for i in range(12)]


@pytest.mark.parametrize("by_steps", [False, True])
def test_filters_that_keep_nothing_are_logged(
    dataset: Path, tmp_path: Path, by_steps: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def three(columns: Any) -> Any:
        return columns["digit"] == 3  # the column is text

    late = tmp_path / "late"
    steps, samples = StepStream(late, 4, where=three), SampleStream(late, where=three)

    def read() -> list[Any]:
        return list(steps.read() if by_steps else iter(samples))

    with pytest.raises(DatasetNotFoundError):
        read()
    shutil.copytree(dataset, late)
    assert read() == read() == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "leave none of the 12 samples of clips" in record.message


@pytest.mark.parametrize("by_steps", [False, True])
def test_a_filter_that_empties_most_shards_is_logged(
    dataset: Path, by_steps: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def said(digits: list[str], **how: Any) -> list[str]:
        caplog.clear()
        how |= {"where": lambda columns: np.isin(columns["digit"].astype(str), digits)}
        if by_steps:
            assert list(StepStream(dataset, 1, **how).read())
        else:
            assert list(SampleStream(dataset, **how))
        return caplog.messages

    # Two samples are in each of the six shards.
    (message,) = said(["2", "9"], shuffle=True)
    assert message.startswith("filters keep samples of only 2 of the 6 shards of clips (window 4)")
    assert said(["2", "4", "9"], shuffle=True) == []
    assert said(["2", "9"]) == []
    assert said(["2", "9"], shuffle=True, window=0) == []
    assert said(["2", "9"], shuffle=True, window=5) == []


def test_of_many_datasets_that_filters_empty_three_are_named(
    dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    classes = [
        Part(LocalRetriever(dataset), shuffle=True, where=lambda columns: columns["digit"] == "2")
        for _ in range(20)
    ]
    list(SampleStream(Mixture(classes)))
    (message,) = caplog.messages
    assert message.count("of the 6 shards of clips (window 4)") == 3
    assert "(window 4) and 17 more: the other shards" in message


def test_a_dataset_without_samples_takes_any_filter_and_any_batch(
    dataset: Path, tmp_path: Path
) -> None:
    with DatasetWriter(tmp_path / "none"):
        pass
    how: dict[str, Any] = {"max_duration": 5, "where": lambda columns: columns["digit"] == "3"}
    assert list(SampleStream(tmp_path / "none", **how)) == []
    assert list(StepStream(tmp_path / "none", BySeconds(9), **how).read(epochs=None)) == []
    both = Mixture([Part(tmp_path / "none", **how), Part(dataset, **how)])
    assert [sample["digit"] for sample in SampleStream(both)] == ["3"]
    steps = StepStream(both, BySeconds(9)).read()
    assert [sample["digit"] for step in steps for sample in step.samples] == ["3"]


@pytest.mark.parametrize("epoch", [-1, "a", 2**32])
def test_an_epoch_is_a_number_that_a_plan_can_make(dataset: Path, epoch: Any) -> None:
    with pytest.raises(PlanError, match="epoch"):
        SampleStream(dataset).set_epoch(epoch)


def test_numbers_of_numpy_are_numbers(dataset: Path) -> None:
    seed: Any = np.int64(3)
    crop = LoadOptions(fields=[], crop=Crop(np.float32(2.0), seed))  # type: ignore[arg-type]
    least: Any = np.float32(1)
    part = Part(dataset, shuffle=True, load=crop, min_duration=least)
    assert LoadOptions(sample_rate=np.int64(16000)).sample_rate == 16000  # type: ignore[arg-type]
    how: Any = {"seed": seed, "world_size": np.int64(2), "rank": np.int64(1)}
    for stream in (SampleStream(part, **how), StepStream(part, BySeconds(9), **how)):
        state = (
            stream.state_dict() if isinstance(stream, SampleStream) else stream.state().to_dict()
        )
        assert json.loads(json.dumps(state))["seed"] == 3


def test_options_may_be_iterators(dataset: Path) -> None:
    class Digit(BaseProcessor):
        def process(self, sample: Any, **kwargs: Any) -> Any:  # noqa: ARG002
            return {"odd": int(sample["digit"]) % 2}

    processors = (one for one in [Digit()])
    stream = SampleStream(dataset, processor=processors)
    for _ in range(2):
        assert [sample["odd"] for sample in stream] == [0, 1] * 6
    names: Any = (name for name in ["digit"])
    stream = SampleStream(dataset, fields=names)
    for _ in range(2):
        assert [set(sample) for sample in stream] == [{"__key__", "digit"}] * 12


def test_what_is_no_dataset_is_refused(dataset: Path) -> None:
    wrong: Any
    for wrong in (None, 5, [dataset]):
        with pytest.raises(TypeError, match="expected a URL, a folder, a retriever or a reader"):
            SampleStream(wrong)
    part = Part(dataset)
    for wrong in (part, "clips", (one for one in [part])):
        with pytest.raises(TypeError, match="parts of a mixture are "):
            Mixture(wrong)
    wrong = [part, dataset]
    with pytest.raises(TypeError, match="part 1 of a mixture is "):
        Mixture(wrong)
    for wrong in ("12", iter([1, 2])):
        with pytest.raises(TypeError, match="weights of a mixture are "):
            Mixture([part, part], weights=wrong)
    wrong = {"mono": True}
    with pytest.raises(TypeError, match=r"load is \{'mono': True\}, expected LoadOptions"):
        Part(dataset, load=wrong)
    for name, wrong in (("crop", 2.0), ("join", "better.csv")):
        with pytest.raises(TypeError, match=f"{name} is .*, expected a "):
            LoadOptions(**{name: wrong})


@pytest.mark.parametrize("state", ["{}", None, [1]])
def test_a_state_is_a_dict(dataset: Path, state: Any) -> None:
    with pytest.raises(PlanError, match="state"):
        SampleStream(dataset).load_state_dict(state)
    with pytest.raises(PlanError, match="a plan's state is a dict"):
        PlanState.from_dict(state)


@pytest.mark.parametrize("which", [slice(0, 3), 1.5, None])
def test_samples_are_read_one_by_one(dataset: Path, which: Any) -> None:
    with DatasetReader.open(dataset) as reader:
        with pytest.raises(TypeError, match="one by one"):
            reader[which]
        with pytest.raises(TypeError, match="one by one"):
            SampleStream(reader)[which]
        numpys: Any = np.uint8(1)
        assert reader[numpys]["__key__"] == SampleStream(reader)[numpys]["__key__"] == reader.key(1)


def test_a_cache_too_small_for_all_workers_is_refused_by_the_first(
    dataset: Path, tmp_path: Path
) -> None:
    def least(workers: int) -> int:
        retriever = CopyRetriever(dataset, cache_dir=tmp_path / "least", max_cache_bytes=1)
        stream = SampleStream(retriever, window=1, worker=0, num_workers=workers)
        with pytest.raises(CacheTooSmallError, match="The smallest that works") as caught:
            next(iter(stream))
        retriever.close()
        said = str(caught.value)
        assert ("beside 1 other reader of" in said) == (workers == 2)
        return int(said.split("works is max_cache_bytes=")[1].split(";")[0])

    alone, two = least(1), least(2)
    assert alone < two
    context = multiprocessing.get_context("fork")
    found = context.SimpleQueue()
    children = [
        context.Process(target=read, args=(dataset, tmp_path / "cache", two, worker, found))
        for worker in range(2)
    ]
    for child in children:
        child.start()
    digits = [digit for _ in children for digit in found.get()]
    for child in children:
        child.join(300)
    assert sorted(digits, key=int) == [str(i) for i in range(12)]


def read(dataset: Path, cache: Path, limit: int, worker: int, found: Any) -> None:
    retriever = CopyRetriever(dataset, cache_dir=cache, max_cache_bytes=limit)
    stream = SampleStream(retriever, window=1, worker=worker, num_workers=2)
    found.put([sample["digit"] for sample in stream])
    retriever.close()


@pytest.mark.parametrize("by_steps", [False, True])
def test_a_cache_too_small_names_the_need_of_all_ranks_on_the_machine(
    dataset: Path, tmp_path: Path, by_steps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(limit: int = 1, *, num_workers: int = 1) -> str:
        retriever = CopyRetriever(dataset, cache_dir=tmp_path, max_cache_bytes=limit)
        how: Any = {"rank": 0, "world_size": 4, "window": 1, "shuffle": True}
        how |= {"worker": 0, "num_workers": num_workers}
        with closing(retriever), pytest.raises(CacheTooSmallError) as caught:
            next(
                StepStream(retriever, 12, **how).read()
                if by_steps
                else iter(SampleStream(retriever, **how))
            )
        return str(caught.value)

    def least(said: str) -> int:
        return int(said.split("works is max_cache_bytes=")[1].split(";")[0].split()[0])

    alone, two = (least(refusal(num_workers=workers)) for workers in (1, 2))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # of two machines
    assert least(refusal()) == two
    assert f"{two} for the 2 ranks of this machine, {alone} where each has" in refusal()
    assert "this reader holds 2 shards" in refusal(alone - 1)


def test_a_cache_too_small_for_gathering_an_index_says_so(dataset: Path, tmp_path: Path) -> None:
    def refusal(limit: int) -> str:
        retriever = CopyRetriever(dataset, cache_dir=tmp_path, max_cache_bytes=limit)
        stream = SampleStream(retriever, window=1, shuffle=True, max_duration=9)
        with closing(retriever), pytest.raises(CacheTooSmallError) as caught:
            next(iter(stream))
        return str(caught.value)

    first = refusal(1)
    assert "this reader holds 1 shard of up to" in first
    assert "only to gather the index" in first
    least = int(first.split("works is max_cache_bytes=")[1].split(";")[0])
    second = refusal(least)
    assert "this reader holds 2 shards of up to" in second
    assert "to gather the index" not in second


def test_a_cache_limit_set_by_another_process_is_named(dataset: Path, tmp_path: Path) -> None:
    def opened(limit: int) -> CopyRetriever:
        return CopyRetriever(dataset, cache_dir=tmp_path, max_cache_bytes=limit)

    first, second = opened(1000), opened(10_000_000)
    with pytest.raises(CacheTooSmallError, match=r"Fewer workers or a smaller window need less$"):
        next(iter(SampleStream(first)))
    first.close()
    assert len(first) == 12, "it has the directory again"
    with pytest.raises(CacheTooSmallError, match=r"asked for 10000000, but .* close that stream"):
        next(iter(SampleStream(second)))
    first.close()
    second.close()
    assert len(list(SampleStream(second))) == 12
    second.close()
