"""Processors that are applied one after the other."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.errors import ProcessingError
from audiomdb.processors.base import BaseProcessor
from audiomdb.processors.chain import Chain
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader
from audiomdb.stream import SampleStream
from tests.core.conversions import Listed, clip, samples


class Louder(BaseProcessor):
    """Doubles the samples of a clip."""

    def process(self, sample: Sample, **kwargs: Any) -> dict[str, Any]:
        rate = kwargs.get("sample_rate", 8000)
        return {"audio": 2 * self.load_array(sample["audio"], rate), "sample_rate": rate}


class Energy(BaseProcessor):
    def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
        audio = self.load_array(sample["audio"], sample["sample_rate"])
        return {"energy": float((audio**2).mean()), "of": sample["text"]}


class Drawn(BaseProcessor):
    """Draws a number and adds it to those drawn before."""

    def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
        number = int(np.random.default_rng(sample["__seed__"]).integers(2**40))
        return {"drawn": [*sample.get("drawn", []), number]}


class Rateless(BaseProcessor):
    def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
        return {"audio": self.load_array(sample["audio"], 16000)}


@pytest.mark.parametrize("workers", [1, 2])
def test_each_processor_sees_what_the_one_before_has_made(tmp_path: Path, workers: int) -> None:
    options: dict[str, Any] = {"num_workers": workers}
    Listed(samples(3), tmp_path / "once", processor=Energy(), **options).run()
    chain = Chain([Louder(keep_original=True), Louder(keep_original=True), Energy()])
    Listed(samples(3), tmp_path / "chain", processor=chain, **options).run()
    with DatasetReader.open(tmp_path / "once") as once, DatasetReader.open(tmp_path / "chain") as d:
        assert d.metadata.processors == (repr(chain),)
        for plain, chained in zip(once, d, strict=True):
            assert chained.keys() == plain.keys()
            assert chained["of"] == plain["of"]
            assert chained["energy"] == pytest.approx(16 * plain["energy"], rel=1e-3)


def test_a_chain_keeps_the_original_if_asked_to(tmp_path: Path) -> None:
    chain = Chain([Louder(keep_original=True), Energy()], keep_original=True)
    Listed(samples(1), tmp_path / "out", processor=chain, num_workers=1).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        sample = dataset[0]
    assert bytes(sample["audio"]) == clip(0)
    assert (sample["sample_rate"], sample["text"]) == (8000, "number 0")
    assert sample["energy"] > 0


def test_audio_that_a_chain_makes_is_stored_with_its_rate(tmp_path: Path) -> None:
    chain = Chain([Louder(keep_original=True), Louder(keep_original=True)])
    Listed(samples(1), tmp_path / "out", processor=chain, num_workers=1).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        sample = dataset[0]
        assert dataset.index["duration"].tolist() == [0.1]
    assert (sample["sample_rate"], sample["frames"], sample["text"]) == (8000, 800, "number 0")


def test_an_array_without_a_rate_in_a_chain_is_refused(tmp_path: Path) -> None:
    chain = Chain([Rateless(keep_original=True), Energy()])
    with pytest.raises(ProcessingError, match=r"Rateless\(.* not its rate") as caught:
        Listed(samples(1), tmp_path / "out", processor=chain, num_workers=1).run()
    assert any("in Rateless(" in note for note in _notes(caught.value))
    sized = {"sample_rate": 16000}
    Listed(samples(1), tmp_path / "sized", processor=chain, num_workers=1, **sized).run()


def _notes(error: BaseException | None) -> list[str]:
    notes: list[str] = []
    while error is not None:
        notes += getattr(error, "__notes__", ())
        error = error.__cause__
    return notes


def test_each_of_a_chain_draws_from_a_seed_of_its_own(tmp_path: Path) -> None:
    Listed(samples(4), tmp_path / "out", num_workers=1).run()

    def drawn(processor: BaseProcessor) -> list[list[int]]:
        with SampleStream(tmp_path / "out", seed=3, processor=processor) as stream:
            return [sample["drawn"] for sample in stream]

    keep = Drawn(keep_original=True)
    chained = drawn(Chain([keep, keep, Drawn()]))
    assert chained == drawn(pickle.loads(pickle.dumps(Chain([keep, keep, Drawn()]))))
    assert len({number for row in chained for number in row}) == 12
    within = drawn(Chain([Chain([keep, keep]), Drawn()]))
    assert len({number for row in within for number in row}) == 12


def test_what_is_no_processor_is_refused() -> None:
    with pytest.raises(TypeError, match="subclass of BaseProcessor, not function"):
        Chain([lambda sample: sample])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="processor is empty"):
        Chain([])
