"""The seed that a processor gets with each sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.plan.bits import Purpose, random_words
from audiomdb.processors.base import BaseProcessor
from audiomdb.sample import Sample
from audiomdb.shards import DatasetWriter
from audiomdb.stream import BySeconds, LoadOptions, Mixture, Part, SampleStream, StepStream


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    with DatasetWriter(tmp_path / "d", samples_per_shard=10) as writer:
        for number in range(40):
            writer.write(f"{number:02d}", {"number": number})
    return tmp_path / "d"


def drawn(sample: Sample) -> Sample:
    rng = np.random.default_rng(sample["__seed__"])
    return {**sample, "drawn": int(rng.integers(2**62))}


class Drawn(BaseProcessor):
    def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
        return {"number": sample["number"], "drawn": drawn(sample)["drawn"]}


def of_each(samples: Any) -> dict[int, int]:
    return {sample["number"]: sample["drawn"] for sample in samples}


@pytest.mark.parametrize("processor", [drawn, Drawn(), [Drawn(keep_original=True)]])
def test_a_sample_draws_the_same_whoever_reads_it(dataset: Path, processor: Any) -> None:
    options: dict[str, Any] = {"shuffle": True, "seed": 7, "processor": processor}
    expected = of_each(SampleStream(dataset, num_threads=0, **options))
    assert len(set(expected.values())) == 40
    by_ranks = [SampleStream(dataset, rank=rank, world_size=4, **options) for rank in range(4)]
    assert of_each(sample for stream in by_ranks for sample in stream) == expected
    steps = StepStream(dataset, 4, num_threads=2, **options)
    assert of_each(sample for step in steps.read() for sample in step.samples) == expected
    assert all("__seed__" not in sample for sample in SampleStream(dataset, **options))


def test_epochs_seeds_and_positions_draw_differently(dataset: Path) -> None:
    def epochs(seed: int) -> list[dict[int, int]]:
        stream = SampleStream(dataset, seed=seed, processor=drawn)
        return [of_each(stream) for _ in range(2)]

    first, second = epochs(1)
    assert not {*first.values()} & {*second.values()}
    assert not {*first.values()} & {*epochs(2)[0].values()}
    assert epochs(1) == [first, second]
    words = random_words(1, 0, Purpose.SAMPLE_SEED, stop=40).tolist()
    assert first == {n: drawn({"__seed__": word})["drawn"] for n, word in enumerate(words)}


def test_a_resumed_run_draws_what_it_would_have_drawn(dataset: Path) -> None:
    def stream() -> SampleStream:
        return SampleStream(dataset, shuffle=True, seed=3, processor=drawn)

    whole = list(stream())
    broken_off = stream()
    samples = iter(broken_off)
    for _ in range(17):
        next(samples)
    state = broken_off.state_dict()
    resumed = stream()
    resumed.load_state_dict(state)
    assert list(resumed) == whole[17:]


def test_the_datasets_of_a_mixture_draw_by_its_seed_and_apart(dataset: Path) -> None:
    load = LoadOptions(processor=drawn)
    parts = [Part(dataset, load=load), Part(dataset, load=load, shuffle=True)]
    mixed = list(SampleStream(Mixture(parts), seed=5))
    first, second = (of_each(s for s in mixed if s["__source__"] == n) for n in (0, 1))
    assert first == of_each(SampleStream(dataset, seed=5, processor=drawn))
    assert second.keys() == first.keys()
    assert not {*second.values()} & {*first.values()}


def draws_of(samples: Any) -> list[tuple[int, int, int]]:
    return sorted((s["__source__"], s["number"], s["drawn"]) for s in samples)


@pytest.mark.parametrize("how", [12, BySeconds(1.0, slots=4)])
def test_a_sample_that_comes_again_draws_anew_for_any_ranks(tmp_path: Path, how: Any) -> None:
    origins = []
    for size in (5, 60):
        origins.append(tmp_path / f"{size}")
        with DatasetWriter(origins[-1], samples_per_shard=10) as writer:
            for n in range(size):
                clip = {"audio": np.zeros(800 * (1 + n % 4), np.float32), "sample_rate": 8000}
                writer.write(f"{n:02d}", {"number": n, **clip})
    parts = [Part(one, load=LoadOptions(processor=drawn), shuffle=True) for one in origins]
    mixture = Mixture(parts, weights=[1, 2], stop="last")
    options: dict[str, Any] = {"seed": 3, "partitions": 2}
    tail: Any = "uneven" if how == 12 else None

    def epochs(world_size: int) -> list[list[tuple[int, int, int]]]:
        ranks = [
            StepStream(mixture, how, rank=rank, world_size=world_size, tail=tail, **options)
            for rank in range(world_size)
        ]
        reads = [list(rank.read(epochs=1)) for rank in ranks]
        return [draws_of(s for read in reads for step in read for s in step.samples)]

    once = epochs(1)
    assert epochs(2) == once
    (first,) = once
    again = [draw for source, number, draw in first if (source, number) == (0, 1)]
    assert len(again) >= 5
    assert len({draw for _, _, draw in first}) == len(first)
    one_by_one = SampleStream(mixture, seed=3, partitions=2)
    assert draws_of(one_by_one) == first


def test_without_a_processor_a_sample_has_no_seed(dataset: Path) -> None:
    assert "__seed__" not in next(iter(SampleStream(dataset)))
