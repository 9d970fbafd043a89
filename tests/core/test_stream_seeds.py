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
from audiomdb.stream import LoadOptions, Mixture, Part, SampleStream, StepStream


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


def test_the_datasets_of_a_mixture_draw_by_its_seed(dataset: Path) -> None:
    load = LoadOptions(processor=drawn)
    parts = [Part(dataset, load=load), Part(dataset, load=load, shuffle=True)]
    mixed = of_each(SampleStream(Mixture(parts), seed=5))
    assert mixed == of_each(SampleStream(dataset, seed=5, processor=drawn))


def test_without_a_processor_a_sample_has_no_seed(dataset: Path) -> None:
    assert "__seed__" not in next(iter(SampleStream(dataset)))
