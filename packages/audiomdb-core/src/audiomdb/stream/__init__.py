"""Streaming a dataset's samples, decoded, in the order of a plan; without torch."""

from __future__ import annotations

from audiomdb.stream.loading import Processing
from audiomdb.stream.samples import MASK, SampleStream
from audiomdb.stream.steps import StepBatch, StepStream

__all__ = ["MASK", "Processing", "SampleStream", "StepBatch", "StepStream"]
