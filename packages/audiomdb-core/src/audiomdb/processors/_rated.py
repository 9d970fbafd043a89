"""Processors, where an array that one of them returns must have a known sample rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audiomdb.errors import ProcessingError
from audiomdb.processors.base import BaseProcessor, Processors
from audiomdb.shards.prepare import NO_RATE, lacks_rate

__all__ = ["RatedProcessors"]


class RatedProcessors(Processors):
    """Processors that add the sample rate to audio that one of them returns as an array.

    Checks the result of each processor: once the fields of the original are merged with it, the
    original's `sample_rate` would be taken for that of the new array.

    Raises:
        ProcessingError: when called, if the rate of such an array is not known.
    """

    def _results(
        self, processor: BaseProcessor, sample: Mapping[str, Any], rate: Mapping[str, int]
    ) -> Mapping[str, Any]:
        result = super()._results(processor, sample, rate)
        if not lacks_rate(result, sample):
            return result
        if not rate:
            raise ProcessingError(f"{processor!r} {NO_RATE}")
        return {**result, **rate}  # the rate that the processor was called with
