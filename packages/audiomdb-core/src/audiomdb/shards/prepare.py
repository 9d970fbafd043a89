"""Prepare batches of source samples as records: the work that is done in parallel workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from audiomdb.audio.cutting import Cutters
from audiomdb.causes import is_of_the_environment
from audiomdb.errors import AudioError, ProcessingError, SampleError
from audiomdb.sample import AUDIO, SAMPLE_RATE, TEXT, Sample, SourceSample, facts_of
from audiomdb.shards.codec import EncodedRecord, encode_record
from audiomdb.shards.describe import (
    AudioOptions,
    Contradiction,
    Description,
    describe,
    row_of,
    source_file,
    source_name,
)
from audiomdb.shards.features import FeatureSummary
from audiomdb.shards.journal import Rejection
from audiomdb.shards.metadata import Feature

__all__ = [
    "NO_RATE",
    "Prepared",
    "PreparedBatch",
    "Process",
    "SampleFacts",
    "is_passing",
    "lacks_rate",
    "prepare_batch",
]

NO_RATE = (
    "returned audio as an array and not its rate: return it in Hz beside it, as 'sample_rate', or "
    "return encoded audio"
)
"""Error message about a processor, without its subject."""

_TEXT = frozenset((str,))

_PASSING = "passing"
"""Name of an attribute of an error. Unlike `__cause__`, it survives pickling between processes."""

Process = Callable[[Sample], Mapping[str, Any]]
"""Function that a processor applies to a sample; must be picklable for worker processes."""


class SampleFacts(msgspec.Struct, frozen=True):
    """What is known about a stored sample besides its record.

    Attributes:
        row: Values of its index columns.
        contradictions: What the source was wrong about.
        finite: Whether no audio sample was found to be NaN or infinite.
        source: Name of what its audio comes from, if that is a file or a part of one.
        file: Path of that file.
    """

    row: Mapping[str, Any]
    contradictions: tuple[Contradiction, ...]
    finite: bool
    source: str | None
    file: str | None


class Prepared(msgspec.Struct, frozen=True):
    """An encoded sample and the facts about it."""

    record: EncodedRecord
    facts: SampleFacts


class PreparedBatch(msgspec.Struct, frozen=True):
    """Outcomes in the order of the samples, and the merged features of the prepared ones."""

    outcomes: list[Prepared | Rejection]
    features: Mapping[str, Feature]

    @property
    def bytes(self) -> int:
        """Size of the records."""
        records = (one.record for one in self.outcomes if isinstance(one, Prepared))
        return sum(len(record.body) + record.payload_bytes for record in records)


def prepare_batch(
    items: Sequence[tuple[str, SourceSample]],
    options: AudioOptions,
    process: Process | None,
    skip: bool,
    cutters: Cutters,
) -> PreparedBatch:
    """Read, check, process and encode a batch of samples.

    Args:
        items: Keys, each with a sample, or with the error for which the source has none.
        options: How audio is checked and stored.
        process: Applied to each sample after its audio was described.
        skip: Return a `Rejection` for a sample that cannot be stored instead of raising.
        cutters: Keeps the files of windows open between samples and batches.

    Raises:
        AudioError: for audio that cannot be used.
        SampleError: for a sample that cannot be stored.
        ProcessingError: when `process` fails; even with `skip` if the reason may be temporary.
    """
    features = FeatureSummary()
    outcomes: list[Prepared | Rejection] = []
    for key, sample in items:
        try:
            outcomes.append(_prepare(key, sample, options, process, features, cutters))
        except (AudioError, SampleError, ProcessingError) as exc:
            if not skip or is_passing(exc):
                raise
            source = source_name(sample) if isinstance(sample, Mapping) else None
            outcomes.append(Rejection.of(str(key), source, str(exc)))
    return PreparedBatch(outcomes, features.result())


def is_passing(error: BaseException) -> bool:
    """Whether a processor failed because of its environment, for a reason that may be temporary."""
    return bool(vars(error).get(_PASSING))


def lacks_rate(result: Mapping[str, Any], sample: Mapping[str, Any]) -> bool:
    """Whether a processor returned new audio as an array without its sample rate.

    A value under `audio` that is not a clip, such as an array of three axes, does not count.
    """
    audio = result.get(AUDIO)
    if audio is sample.get(AUDIO) or result.get(SAMPLE_RATE) is not None:
        return False
    if not hasattr(audio, "__array__"):
        return False
    try:
        array = np.asarray(audio)
    except (TypeError, ValueError, RuntimeError):
        return False  # a tensor that is refused when it is stored
    return array.ndim in (1, 2) and array.dtype.kind in "iuf"


def _with_plain_names(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the sample with field names that are str subclasses, such as enums, as plain str."""
    if _TEXT.issuperset(map(type, sample)):
        return sample
    return {
        str.__str__(name) if isinstance(name, str) else name: value
        for name, value in sample.items()
    }


def _prepare(
    key: str,
    sample: SourceSample,
    options: AudioOptions,
    process: Process | None,
    features: FeatureSummary,
    cutters: Cutters,
) -> Prepared:
    if isinstance(sample, AudioError | SampleError):
        kind = AudioError if isinstance(sample, AudioError) else SampleError
        raise kind(f"sample {key!r}: {sample}") from sample
    if not isinstance(sample, Mapping):
        raise SampleError(f"sample {key!r} is {type(sample).__name__}, expected a dict of fields")
    described = describe(key, _with_plain_names(sample), options, cutters)
    stored: Mapping[str, Any] = described.sample
    row, finite = described.row, described.finite
    if process is not None:
        stored, finite = _processed(key, described, process, options, cutters)
        stored = _with_plain_names(stored)
    source = source_name(sample)
    try:
        record = encode_record(key, stored)
    except SampleError as exc:
        if source is None:
            raise
        raise type(exc)(f"{source}: {exc}") from exc
    if process is not None:
        row = _row_after(row, stored)
    features.add(stored)
    file = None if source is None else source_file(sample)
    facts = SampleFacts(row, described.contradictions, finite, source, file)
    return Prepared(record, facts)


def _processed(
    key: str, described: Description, process: Process, options: AudioOptions, cutters: Cutters
) -> tuple[Sample, bool]:
    """Return a sample as it is stored, and whether no NaN or infinity was found in its audio."""
    before, rate = described.sample, options.sample_rate
    try:
        after = process(dict(before))
    except (Exception, SystemExit) as exc:
        error = ProcessingError(f"sample {key!r}: {type(exc).__name__}: {exc}")
        if is_of_the_environment(exc):
            # Rejected because of it, the sample would be missing for ever.
            error = ProcessingError(
                f"{error}. This says nothing about the sample; run the same conversion again once "
                "the cause is mended. A processor that means the sample raises a ValueError"
            )
            vars(error)[_PASSING] = True
        raise error from exc
    if not isinstance(after, Mapping):
        raise ProcessingError(f"sample {key!r}: the processor returned {type(after).__name__}")
    out = dict(after)
    audio = out.get(AUDIO)
    if audio is None:
        return out, described.finite
    if audio is before.get(AUDIO):
        # A rate that the processor returns is that of its features, not of the unchanged clip.
        return out | facts_of(before), described.finite
    if lacks_rate(out, before):
        if rate is None and not hasattr(before.get(AUDIO), "__array__"):
            raise ProcessingError(f"sample {key!r}: the processor {NO_RATE}")
        out[SAMPLE_RATE] = before[SAMPLE_RATE] if rate is None else rate  # which it was told
    if isinstance(audio, bytes | bytearray | memoryview) or SAMPLE_RATE in out:
        # The facts describe the old clip. Decoding checks against them, so determine the new ones.
        made = describe(key, out, options, cutters)
        return made.sample, made.finite
    return out, True


def _row_after(row: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a sample's index columns, given those before it was processed.

    What is not stored can still be filtered by: a sample of features has a duration.
    """
    replaced = {*stored, "audio_bytes", *(("text_length",) if TEXT in stored else ())}
    kept = {name: value for name, value in row.items() if name not in replaced}
    return kept | row_of(stored)
