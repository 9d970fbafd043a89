"""What a sample is: a dict of named fields under a string key.

The names below have a meaning to the library; every other field is the user's.
"""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = [
    "AUDIO",
    "CHANNELS",
    "DURATION",
    "FACTS",
    "FRAMES",
    "KEY",
    "MAX_KEY_BYTES",
    "SAMPLE_RATE",
    "TEXT",
    "Sample",
]

Sample: TypeAlias = dict[str, Any]

KEY = "__key__"
"""A sample that was read carries its key under this name."""

AUDIO = "audio"
"""Encoded bytes exactly as they came, or an array `(frames,)` or `(frames, channels)`."""

TEXT = "text"
"""The transcript. The index keeps its length, not the text."""

SAMPLE_RATE = "sample_rate"
"""Rate of `audio` in Hz."""

CHANNELS = "channels"
"""Channels of `audio`."""

FRAMES = "frames"
"""True number of frames of `audio`, at its own rate."""

DURATION = "duration"
"""Length of `audio` in seconds."""

FACTS = frozenset((SAMPLE_RATE, CHANNELS, FRAMES, DURATION))
"""What is found out about `audio`, and belongs to it."""

MAX_KEY_BYTES = 511
"""LMDB's limit on a key, in bytes of UTF-8."""
