"""A processor that is made of others, applied one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from audiomdb.notes import add_note
from audiomdb.processors._rated import RatedProcessors
from audiomdb.processors.base import BaseProcessor
from audiomdb.sample import SAMPLE_RATE, SEED, Sample

__all__ = ["Chain"]


class Chain(BaseProcessor):
    """Applies processors one after the other: each sees what the one before has made of the sample.

        features = Chain([AddNoise(keep_original=True), Loudness()])

    A processor without `keep_original` passes on only the fields that it returns. The result is
    that of the last one. Each gets a `__seed__` of its own while reading.

    Args:
        processors: The processors, in their order.
        keep_original: Store the sample's own fields with those of the last processor.

    Raises:
        TypeError: for anything that is not a `BaseProcessor`, such as a function.
        ValueError: for no processors.
    """

    def __init__(self, processors: Iterable[BaseProcessor], *, keep_original: bool = False) -> None:
        super().__init__(keep_original)
        self.processors = RatedProcessors(processors).processors

    def process(self, sample: Sample, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401
        """Make fields from one sample.

        Raises:
            ProcessingError: when a processor returns no dict, or an array of audio without its
                rate, which is not known otherwise either.
        """
        seed = sample.get(SEED)
        for number, processor in enumerate(self.processors):
            if seed is not None:
                sample = {**sample, SEED: _seed_of(seed, number)}
            try:
                sample = RatedProcessors(processor, sample_rate=kwargs.get(SAMPLE_RATE))(sample)
            except Exception as error:
                add_note(error, f"in {processor!r}")
                raise
        if seed is not None and SEED in sample:
            sample = {**sample, SEED: seed}
        return sample

    def __repr__(self) -> str:
        """Show all processors in full, since metadata names them by this text."""
        kept = ", keep_original=True" if self.keep_original else ""
        return f"Chain([{', '.join(map(repr, self.processors))}]{kept})"


def _seed_of(seed: int, number: int) -> int:
    """Return the seed of one of several processors, also of chains within chains another for each.

    It is a word of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014).
    """
    word = (seed + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
    return word ^ word >> 31
