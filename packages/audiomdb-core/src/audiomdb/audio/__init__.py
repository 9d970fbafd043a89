"""Encoded audio to arrays and back.

`probe` reads headers, `check` decodes and counts, `decode` gives a clip or a window of it,
`resample` changes its rate, `encode` makes a file of an array, at a rate that `check_rate` allows.

Read are WAV (RIFX, RF64, Wave64), FLAC, Ogg Vorbis and Opus, MP3, AIFF, AU, CAF, NIST SPHERE and
VOC, whatever a file is called. Of these, the completeness of a file can be checked; other formats
are refused with advice.

Decoded audio is float32 of shape `(frames,)`, or `(frames, channels)` with several channels. All
functions are thread-safe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiomdb.audio.decoding import decode
from audiomdb.audio.fast_decoders import decoders, only_libsndfile
from audiomdb.audio.info import AudioInfo, AudioSource
from audiomdb.audio.probing import check, probe
from audiomdb.audio.resampling import resample
from audiomdb.audio.window import AudioWindow
from audiomdb.lazy import lazily

if TYPE_CHECKING:
    from audiomdb.audio.encoding import check_rate, encode
else:
    __getattr__, __dir__ = lazily(__name__, {"check_rate": "encoding", "encode": "encoding"})

__all__ = [
    "AudioInfo",
    "AudioSource",
    "AudioWindow",
    "check",
    "check_rate",
    "decode",
    "decoders",
    "encode",
    "only_libsndfile",
    "probe",
    "resample",
]
