"""Define the sample, a dict of named fields, and the field names that the library uses.

All other fields belong to the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from audiomdb.errors import AudioError, SampleError

__all__ = [
    "AUDIO",
    "CHANNELS",
    "DURATION",
    "FRAMES",
    "KEY",
    "MAX_KEY_BYTES",
    "SAMPLE_RATE",
    "SEED",
    "TEXT",
    "Sample",
    "SourceSample",
    "facts_of",
]

Sample: TypeAlias = dict[str, Any]

SourceSample: TypeAlias = Mapping[str, Any] | AudioError | SampleError
"""What a source gives for a key: fields, or an error that says why it has none."""

KEY = "__key__"
"""Field that holds the key of a sample that was read."""

SEED = "__seed__"
"""Field that a processor gets while streaming: a seed that depends on the stream's seed, the epoch,
the sample's position among all datasets and how often the epoch passed over its dataset before; in
a `Chain`, also on the place in the chain; on nothing else."""

AUDIO = "audio"
"""Encoded bytes, exactly as given, or an array `(frames,)` or `(frames, channels)`."""

TEXT = "text"
"""Transcript of the audio. The index stores its length, not the text."""

SAMPLE_RATE = "sample_rate"
"""Sample rate of `audio` in Hz."""

CHANNELS = "channels"
"""Number of channels of `audio`."""

FRAMES = "frames"
"""Actual number of frames of `audio`, at its own sample rate."""

DURATION = "duration"
"""Duration of `audio` in seconds."""

_FACTS = frozenset((SAMPLE_RATE, CHANNELS, FRAMES, DURATION))
"""What is found out about `audio`, and belongs to it."""

MAX_KEY_BYTES = 511
"""Maximum length of a key in bytes of UTF-8, as limited by LMDB."""


def facts_of(sample: Mapping[str, Any]) -> Sample:
    """Return the known facts about a sample's audio, in the order in which the sample has them."""
    return {name: value for name, value in sample.items() if name in _FACTS and value is not None}
