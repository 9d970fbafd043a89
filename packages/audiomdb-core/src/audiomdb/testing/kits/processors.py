"""Conformance tests for processors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.audio import decode
from audiomdb.audio.encoding import encode
from audiomdb.processors.base import BaseProcessor, Processors
from audiomdb.sample import AUDIO, SAMPLE_RATE, TEXT, Sample
from audiomdb.shards import DatasetReader
from audiomdb.shards.dataset_writer import DatasetWriter
from audiomdb.shards.verify import verify_dataset
from audiomdb.testing.datasets import sample_digest
from audiomdb.testing.kits.conformance import Conformance, expect_same, files_in
from audiomdb.testing.kits.hashing import HASH_SEEDS, digest_in_order, in_process_with

__all__ = ["ProcessorConformance"]

_RATE = 16_000
_SAMPLES = 4


class ProcessorConformance(Conformance):
    """Tests that every processor must pass. Subclass it in a test module, once per processor.

        class TestMyProcessor(ProcessorConformance):
            def make_processor(self, keep_original):
                return MyProcessor(n_mels=80, keep_original=keep_original)

    Override `make_sample(number)` if a processor needs other fields than audio and text.

    Attributes:
        sample_rate: The sample rate, in Hz, that the processor is called with; by default 16 kHz.
            One test uses half of it.
        tolerance: Largest difference between results for encoded audio and for the same audio as
            an array; by default 0.001.
        longest_test_s: Seconds after which a test that has not ended fails; by default 120.
    """

    sample_rate: int = _RATE
    tolerance: float = 1e-3

    def make_processor(self, keep_original: bool) -> BaseProcessor:
        """Make a processor, with the same options each time. To be defined by the subclass."""
        raise NotImplementedError(f"{type(self).__name__} has to define make_processor")

    def make_sample(self, number: int) -> Sample:
        """Make a sample as a converter yields it: half a second of FLAC, mono, and its text."""
        rng = np.random.Generator(np.random.Philox(number))
        audio = (rng.random(_RATE // 2 + number, np.float32) - 0.5) * 0.2
        return {
            AUDIO: encode(audio, _RATE, "flac"),
            SAMPLE_RATE: _RATE,
            TEXT: f"hello, sample {number}",
        }

    def run(self, processor: BaseProcessor, sample: Sample) -> Sample:
        """Process a sample in the way that converters and streams do."""
        return Processors(processor, sample_rate=self.sample_rate)(sample)

    def test_it_makes_fields_that_can_be_stored(self, tmp_path: Path) -> None:
        """Results hold bytes, str, numbers, None, lists, dicts with text keys, or arrays only."""
        processor = self.make_processor(keep_original=False)
        samples = [self.run(processor, self.make_sample(n)) for n in range(_SAMPLES)]
        with DatasetWriter(tmp_path / "out") as writer:
            for number, sample in enumerate(samples):
                assert sample, "it returns no field"
                writer.write(f"clip-{number}", sample)
        assert list(verify_dataset(tmp_path / "out")) == []
        with DatasetReader.open(tmp_path / "out") as reader:
            for number, sample in enumerate(samples):
                assert set(sample) <= set(reader[number])

    def test_the_result_depends_on_the_sample_alone(self) -> None:
        """Earlier samples have no influence, so that a conversion can be resumed."""
        processor = self.make_processor(keep_original=False)
        numbers = [*range(_SAMPLES), *reversed(range(_SAMPLES))]
        samples = [self.run(processor, self.make_sample(n)) for n in numbers]
        # Now, not after each: a buffer that a processor returns twice holds the last result only.
        results = [sample_digest(sample) for sample in samples]
        assert results == results[::-1]
        assert sample_digest(self.run(processor, self.make_sample(1))) == results[1]
        fresh = self.make_processor(keep_original=False)
        assert sample_digest(self.run(fresh, self.make_sample(0))) == results[0]

    def test_it_leaves_the_sample_as_it_is(self) -> None:
        """Other processors get the same values, which `sample.copy()` shares."""
        for sample in (self.make_sample(0), self.decoded(self.make_sample(0))):
            before = sample_digest(sample)
            self.run(self.make_processor(keep_original=True), sample)
            processor = self.make_processor(keep_original=False)
            processor.process(dict(sample), sample_rate=self.sample_rate)
            assert sample_digest(sample) == before

    @pytest.mark.parametrize("slower", [1, 2])
    def test_audio_may_be_encoded_or_an_array(self, slower: int) -> None:
        """Give `sample["audio"]` itself to `load_array`, which takes both and resamples.

        It knows the rate of that array only. For one that was computed from it, pass `from_rate=`.
        """
        sample = self.make_sample(1)
        if AUDIO not in sample:
            pytest.skip("make_sample has no audio")
        rate = self.sample_rate // slower
        if slower > 1:
            audio, _ = decode(sample[AUDIO], sample_rate=rate)
            sample = {**sample, AUDIO: encode(audio, rate, "flac"), SAMPLE_RATE: rate}
        processors = Processors(self.make_processor(keep_original=False), sample_rate=rate)
        encoded, array = processors(sample), processors(self.decoded(sample, rate))
        assert encoded.keys() == array.keys(), "other fields for an array than for encoded audio"
        for field in encoded:
            if encoded[field] is not sample.get(field):  # handed through
                self.compare(field, encoded[field], array[field])

    def compare(self, field: str, a: Any, b: Any) -> None:  # noqa: ANN401
        """Assert that results for encoded audio and for an array agree within `tolerance`."""
        if not hasattr(a, "__array__") and not isinstance(a, float):
            assert sample_digest(a) == sample_digest(b), field
            return
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), field
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, atol=self.tolerance, err_msg=field)
        elif a.dtype.kind in "iu":  # a number that was rounded
            np.testing.assert_allclose(a.astype(float), b.astype(float), atol=1, err_msg=field)
        else:
            assert sample_digest(a) == sample_digest(b), field

    def test_it_works_where_nobody_says_a_rate(self) -> None:
        """`sample_rate=` is left out then, never None."""
        processor = self.make_processor(keep_original=False)
        assert Processors(processor)(self.make_sample(0))

    def test_the_samples_own_fields_stay_when_asked_for(self) -> None:
        """`keep_original` belongs to the base class: pass it on."""
        sample = self.make_sample(0)
        kept = self.run(self.make_processor(keep_original=True), sample)
        assert set(sample) <= set(kept)
        processor = self.make_processor(keep_original=True)
        assert processor.keep_original
        assert not self.make_processor(keep_original=False).keep_original

    def test_it_goes_to_workers(self) -> None:
        """The processor pickles, and the copy gives the same results."""
        processor = self.make_processor(keep_original=False)
        expected = sample_digest(self.run(processor, self.make_sample(0)))
        copy = ForkingPickler.loads(ForkingPickler.dumps(processor))
        assert sample_digest(self.run(copy, self.make_sample(0))) == expected

    def test_another_process_makes_the_same_of_a_sample(self) -> None:
        """Use no `hash` of a text, and sort what comes from a set: both differ between processes.

        It is about values and the order of the fields: both are in the bytes of a dataset.
        """
        processors = Processors(
            self.make_processor(keep_original=False), sample_rate=self.sample_rate
        )
        sample = self.make_sample(0)
        found = [in_process_with(seed, _digest_of, processors, sample) for seed in HASH_SEEDS]
        expected = [_digest_of(processors, sample)] * len(HASH_SEEDS)
        assert found == expected, "fields have other values in another process, or another order"

    def test_its_name_is_the_same_in_every_process(self) -> None:
        """`repr` has the options but no address: metadata stores it, and resuming compares it."""
        processor = self.make_processor(keep_original=False)
        text = repr(processor)
        assert " at 0x" not in text
        assert repr(self.make_processor(keep_original=False)) == text
        assert repr(ForkingPickler.loads(ForkingPickler.dumps(processor))) == text
        self.run(processor, self.make_sample(0))
        assert repr(processor) == text

    def test_several_threads_may_call_it_at_once(self) -> None:
        """Streams call a processor from several threads."""
        processor = self.make_processor(keep_original=False)
        numbers = list(range(_SAMPLES)) * 2
        expected = [sample_digest(self.run(processor, self.make_sample(n))) for n in numbers]
        with ThreadPoolExecutor(4) as pool:
            found = pool.map(
                lambda n: sample_digest(self.run(processor, self.make_sample(n))), numbers
            )
            assert list(found) == expected

    def test_conversion_makes_the_same_bytes_with_any_number_of_workers(
        self, tmp_path: Path
    ) -> None:
        """The work is done in threads, in no fixed order."""
        for workers in (1, 3):
            processors = Processors(
                self.make_processor(keep_original=True), sample_rate=self.sample_rate
            )
            with DatasetWriter(
                tmp_path / f"with-{workers}" / "out",
                samples_per_shard=2,
                process=processors,
                process_names=processors.names,
                num_workers=workers,
            ) as writer:
                for number in range(_SAMPLES):
                    writer.write(f"clip-{number}", self.make_sample(number))
        one, three = (files_in(tmp_path / f"with-{workers}" / "out") for workers in (1, 3))
        expect_same(three, one)

    def decoded(self, sample: Sample, sample_rate: int | None = None) -> Sample:
        """Return a sample with its audio as an array, at the rate the processor is called with."""
        if not isinstance(sample.get(AUDIO), bytes):
            return sample
        audio, rate = decode(sample[AUDIO], sample_rate=sample_rate or self.sample_rate)
        return {**sample, AUDIO: audio, SAMPLE_RATE: rate}


def _digest_of(processors: Processors, sample: Sample) -> str:
    return digest_in_order(processors(sample))
