"""Decode, inspect, resample and encode audio.

`probe` reads headers, `check` decodes a clip to count its frames, `decode` returns a clip or a
window of it, `resample` changes its sample rate, and `encode` turns an array into an audio file, at
a rate that `check_rate` accepts.

The supported formats are WAV (and RIFX, RF64, Wave64), FLAC, Ogg Vorbis and Opus, MP3, AIFF, AU,
CAF, NIST SPHERE and VOC; they are recognised by content, not by file name. All of them allow a file
to be checked for completeness. Other formats are refused with advice.

Decoded audio is float32 of shape `(frames,)`, or `(frames, channels)` if there are several
channels. All functions are thread-safe.
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
