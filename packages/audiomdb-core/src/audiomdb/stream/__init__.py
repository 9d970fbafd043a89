"""Stream the decoded samples of a dataset in the order of a plan, without torch."""

from __future__ import annotations

from audiomdb.stream.by_seconds import BySeconds
from audiomdb.stream.crops import Crop
from audiomdb.stream.joined import JoinedColumns
from audiomdb.stream.load_options import LoadOptions, OnError, Processing
from audiomdb.stream.opening import open_dataset
from audiomdb.stream.samples import SampleStream
from audiomdb.stream.sources import SOURCE, Mixture, Part, Where
from audiomdb.stream.stalls import Stall
from audiomdb.stream.stats import StreamStats
from audiomdb.stream.step_batches import StepBatch
from audiomdb.stream.steps import StepStream
from audiomdb.stream.work import MASK

__all__ = [
    "MASK",
    "SOURCE",
    "BySeconds",
    "Crop",
    "JoinedColumns",
    "LoadOptions",
    "Mixture",
    "OnError",
    "Part",
    "Processing",
    "SampleStream",
    "Stall",
    "StepBatch",
    "StepStream",
    "StreamStats",
    "Where",
    "open_dataset",
]
