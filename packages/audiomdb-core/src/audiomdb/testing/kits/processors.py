"""The kit for processors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.audio import decode, encode
from audiomdb.processors.base import BaseProcessor, Processors
from audiomdb.sample import AUDIO, SAMPLE_RATE, TEXT, Sample
from audiomdb.shards import DatasetReader, DatasetWriter, verify_dataset
from audiomdb.testing.datasets import sample_digest
from audiomdb.testing.kits.conformance import Conformance, files_in

__all__ = ["ProcessorConformance"]

_RATE = 16_000
_SAMPLES = 4


class ProcessorConformance(Conformance):
    """What every processor does. To be subclassed in a test module, once for each processor.

        class TestMyProcessor(ProcessorConformance):
            def make_processor(self, keep_original):
                return MyProcessor(n_mels=80, keep_original=keep_original)

    `make_sample` may be overridden where a processor needs other fields than audio and text.
    """

    sample_rate: int = _RATE
    """The rate, in Hz, that the caller of the processor sets."""

    tolerance: float = 1e-3
    """How far results for encoded audio and for the same audio as an array may be apart."""

    def make_processor(self, keep_original: bool) -> BaseProcessor:
        """A processor, made with the same options each time. To be defined by the subclass."""
        raise NotImplementedError(f"{type(self).__name__} has to define make_processor")

    def make_sample(self, number: int) -> Sample:
        """A sample as a converter yields it: half a second of FLAC, mono, and its text."""
        rng = np.random.Generator(np.random.Philox(number))
        audio = (rng.random(_RATE // 2 + number, np.float32) - 0.5) * 0.2
        return {
            AUDIO: encode(audio, _RATE, "flac"),
            SAMPLE_RATE: _RATE,
            TEXT: f"hello, sample {number}",
        }

    def run(self, processor: BaseProcessor, sample: Sample) -> Sample:
        """What becomes of a sample, by the way that converters and streams take."""
        return Processors(processor, sample_rate=self.sample_rate)(sample)

    def test_it_makes_fields_that_can_be_stored(self, tmp_path: Path) -> None:
        """Bytes, str, numbers, None, lists, dicts with text keys, arrays; nothing else."""
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
        """Not on what it did before, so that a conversion can be taken up again."""
        processor = self.make_processor(keep_original=False)
        numbers = [*range(_SAMPLES), *reversed(range(_SAMPLES))]
        samples = [self.run(processor, self.make_sample(n)) for n in numbers]
        # Now, not after each: memory that a processor gives out twice holds the last result only.
        results = [sample_digest(sample) for sample in samples]
        assert results == results[::-1]
        assert sample_digest(self.run(processor, self.make_sample(1))) == results[1]
        fresh = self.make_processor(keep_original=False)
        assert sample_digest(self.run(fresh, self.make_sample(0))) == results[0]

    def test_it_leaves_the_sample_as_it_is(self) -> None:
        """Other processors get the same values: `sample.copy()` shares them."""
        for sample in (self.make_sample(0), self.decoded(self.make_sample(0))):
            before = sample_digest(sample)
            self.run(self.make_processor(keep_original=True), sample)
            processor = self.make_processor(keep_original=False)
            processor.process(dict(sample), sample_rate=self.sample_rate)
            assert sample_digest(sample) == before

    def test_audio_may_be_encoded_or_an_array(self) -> None:
        """`load_array` takes both; an array comes with its own `sample_rate=`."""
        sample = self.make_sample(1)
        if AUDIO not in sample:
            pytest.skip("make_sample has no audio")
        processor = self.make_processor(keep_original=False)
        encoded = self.run(processor, sample)
        array = self.run(processor, self.decoded(sample))
        assert encoded.keys() == array.keys()
        for field in encoded.keys() - sample.keys():
            self.compare(field, encoded[field], array[field])

    def compare(self, field: str, a: Any, b: Any) -> None:  # noqa: ANN401
        """Assert that a field for encoded audio is what it is for an array, within `tolerance`."""
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
        """`keep_original` belongs to the base: hand it on."""
        sample = self.make_sample(0)
        kept = self.run(self.make_processor(keep_original=True), sample)
        assert set(sample) <= set(kept)
        processor = self.make_processor(keep_original=True)
        assert processor.keep_original
        assert not self.make_processor(keep_original=False).keep_original

    def test_it_goes_to_workers(self) -> None:
        """It pickles, and the copy does the same."""
        processor = self.make_processor(keep_original=False)
        expected = sample_digest(self.run(processor, self.make_sample(0)))
        copy = ForkingPickler.loads(ForkingPickler.dumps(processor))
        assert sample_digest(self.run(copy, self.make_sample(0))) == expected

    def test_another_process_makes_the_same_of_a_sample(self) -> None:
        """Conversion works in several: hashes of texts differ between them, and so do numbers."""
        import loky

        processors = Processors(
            self.make_processor(keep_original=False), sample_rate=self.sample_rate
        )
        sample = self.make_sample(0)
        found = []
        for seed in ("1", "2"):
            with loky.ProcessPoolExecutor(1, env={"PYTHONHASHSEED": seed}) as pool:
                found.append(pool.submit(_digest_of, processors, sample).result())
        assert found == [sample_digest(processors(sample))] * 2

    def test_its_name_is_the_same_in_every_process(self) -> None:
        """Its options are in `repr`, no address: metadata names it, resuming compares it."""
        processor = self.make_processor(keep_original=False)
        text = repr(processor)
        assert " at 0x" not in text
        assert repr(self.make_processor(keep_original=False)) == text
        assert repr(ForkingPickler.loads(ForkingPickler.dumps(processor))) == text
        self.run(processor, self.make_sample(0))
        assert repr(processor) == text

    def test_several_threads_may_call_it_at_once(self) -> None:
        """Streams do."""
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
        """The work is done in threads, in no order that could be relied on."""
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
        assert files_in(tmp_path / "with-1" / "out") == files_in(tmp_path / "with-3" / "out")

    def decoded(self, sample: Sample) -> Sample:
        """A sample with its audio as an array, at the rate that the caller sets."""
        if not isinstance(sample.get(AUDIO), bytes):
            return sample
        audio, rate = decode(sample[AUDIO], sample_rate=self.sample_rate)
        return {**sample, AUDIO: audio, SAMPLE_RATE: rate}


def _digest_of(processors: Processors, sample: Sample) -> str:
    return sample_digest(processors(sample))
