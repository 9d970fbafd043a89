"""Define `Structure`, the result of checking a container before it is decoded.

libsndfile clamps a size field that promises more than the file holds, and then returns short audio
without an error. So every container is first checked, by its own rules, to hold all that it
announces. Only then is it decoded, and the number of frames must be the announced one. Containers
that cannot be checked are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from audiomdb.audio.flac import StreamInfo

__all__ = ["ByteOrder", "Excerpt", "Plain", "Structure"]

ByteOrder: TypeAlias = Literal["big", "little"]
"""Byte order of the numbers in a header, as `int.from_bytes` takes it."""


class Plain(msgspec.Struct, frozen=True):
    """The location of uncompressed samples, which NumPy can read in place."""

    dtype: np.dtype
    """Dtype of a sample; either 16-bit integer or 32-bit float."""

    position: int
    """Position of the first frame in the file, in bytes."""

    frames: int
    channels: int
    sample_rate: int


class Excerpt(msgspec.Struct, frozen=True):
    """An audio file made from another one."""

    octets: bytes
    first: int
    """Frame of the clip with which it starts; negative if other frames come before the clip's."""


class Structure(NamedTuple):
    """The description of a container that holds everything it announces."""

    container: str
    """Container, as libsndfile names it: `"WAV"`, `"FLAC"`, `"OGG"`, `"MP3"`, ..."""

    frames: int | None = None
    """Number of frames that the check established, or None to use libsndfile's count.

    Of a FLAC whose header does not give it, libsndfile has none: only decoding finds the end."""

    seekable: bool = True
    """False if decoding after a seek gives other samples than decoding from the start."""

    samples_only: bool = False
    """True if any bytes are valid samples, so that decoding proves nothing."""

    plain: Plain | None = None
    flac: StreamInfo | None = None

    rebuild: Callable[[], Excerpt] | None = None
    """Makes a corrected file, used if libsndfile finds too few frames in the original."""

    instead: Callable[[], Excerpt] | None = None
    """Makes a file for libsndfile in place of one that it cannot decode completely."""

    excerpt: Callable[[int, int, int], Excerpt | None] | None = None
    """Makes a smaller file with frames `[start, stop)`; called with start, stop and total.

    None if it cannot, or if decoding from the start costs no more."""
