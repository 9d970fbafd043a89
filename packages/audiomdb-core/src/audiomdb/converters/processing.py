"""Processors at conversion, where what they return is kept for good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audiomdb.errors import ProcessingError
from audiomdb.processors.base import BaseProcessor, Processors
from audiomdb.shards.prepare import NO_RATE, lacks_rate

__all__ = ["ConversionProcessors"]


class ConversionProcessors(Processors):
    """Processors that say the rate of an array that they make of the audio.

    Looks at the result of each of them: once the fields of the original are merged with it, the
    original's `sample_rate` would pass for that of the new array.

    Raises:
        ProcessingError: when called, for an array of which nobody has said the rate.
    """

    def _results(
        self, processor: BaseProcessor, sample: Mapping[str, Any], rate: Mapping[str, int]
    ) -> Mapping[str, Any]:
        result = super()._results(processor, sample, rate)
        if not lacks_rate(result, sample):
            return result
        if not rate:
            raise ProcessingError(f"{processor!r} {NO_RATE}")
        return {**result, **rate}  # that is the rate it was told
