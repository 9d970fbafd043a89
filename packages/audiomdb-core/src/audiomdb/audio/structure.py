"""What the containers' own sizes say, before any decoder is asked.

libsndfile clamps a size field that promises more than the file holds, and then reads short audio
without an error. So every container read here is first walked by its own rules: is all that it
announces there? Only then is it decoded, and the number of frames must be the announced one.
Containers that this room cannot vouch for are refused.
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
"""Of the numbers in a header, as `int.from_bytes` calls it."""


class Plain(msgspec.Struct, frozen=True):
    """Samples that lie in the file as an array, so that NumPy can read them in place."""

    dtype: np.dtype
    """Of one sample; either 16-bit integers or 32-bit floats."""

    position: int
    """Byte at which the first frame starts."""

    frames: int
    channels: int
    sample_rate: int


class Excerpt(msgspec.Struct, frozen=True):
    """An audio file made from another one."""

    octets: bytes
    lead: int
    """Frames at its start that were not asked for."""


class Structure(NamedTuple):
    """A container whose announced parts are all there."""

    container: str
    """`"WAV"`, `"FLAC"`, `"OGG"`, `"MP3"`, ... as libsndfile calls it."""

    frames: int | None = None
    """Frames that the container proves, or None where libsndfile's own count is to be taken."""

    frames_known: bool = True
    """False where no header tells the number of frames: decode until the audio ends."""

    seekable: bool = True
    """False where seeking does not give the samples that decoding from the start gives."""

    samples_only: bool = False
    """True where any bytes are valid samples, so that decoding proves nothing."""

    plain: Plain | None = None
    flac: StreamInfo | None = None

    rebuild: Callable[[], Excerpt] | None = None
    """Makes the file as libsndfile must see it, for when it finds too few frames."""

    instead: Callable[[], Excerpt] | None = None
    """Makes what libsndfile reads in place of a file that it would stumble over."""

    excerpt: Callable[[int, int, int], Excerpt | None] | None = None
    """Makes a smaller file that holds the frames `[start, stop)` of a clip of so many frames."""
