"""Choose random windows of clips before anything is decoded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec
import numpy as np

from audiomdb.plan.bits import Purpose
from audiomdb.plan.checks import above_zero, whole_number
from audiomdb.stream.draws import Draw, word_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CROP_OFFSET", "CROP_SECONDS", "Crop", "ShortClips", "Span", "check_short_clips"]

CROP_OFFSET = "crop_offset"
"""Field of a cropped sample: the start of the window in its clip, in seconds."""

CROP_SECONDS = "crop_seconds"
"""Field of a cropped sample: the length of the window in seconds, without padding."""

ShortClips: TypeAlias = Literal["keep", "pad"]
"""What happens to clips that are not longer than the window."""


class Span(msgspec.Struct, frozen=True):
    """Frames `[start, start + frames)` of a clip, at the clip's own rate.

    Attributes:
        start: First frame.
        frames: Number of frames.
        whole: Whether the span is the whole clip.
    """

    start: int
    frames: int
    whole: bool


class Crop(msgspec.Struct, frozen=True):
    """Cuts a random window of a fixed length out of every clip.

    Its offset depends only on seed, epoch, the clip's position among the datasets and how often the
    epoch read it before, not on ranks, workers, threads or other samples, and a resumed run gets
    the same windows. All offsets at which the window fits are equally likely.

    Args:
        seconds: Length of the window in seconds.
        seed: 0 to 2**64 - 1.
        short_clips: Clips that are not longer than the window are used whole: "keep" leaves them
            short, "pad" pads them with zeros at the end.

    Raises:
        ValueError: an option is out of range.
    """

    seconds: float
    seed: int = 0
    short_clips: ShortClips = "keep"

    def __post_init__(self) -> None:
        if not above_zero(self.seconds) or self.seconds == math.inf:
            raise ValueError(f"seconds is {self.seconds!r}, expected more than 0")
        whole_number("seed", self.seed, high=2**64 - 1)
        check_short_clips(self.short_clips)

    def frames_at(self, rate: int) -> int:
        """Return the number of frames of a window at a rate in Hz."""
        return max(1, round(self.seconds * rate))

    def lasts(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the seconds of the windows of clips of `seconds`, NaN for NaN; both `(n,)`."""
        if self.short_clips == "pad":
            return np.where(np.isnan(seconds), seconds, self.seconds)
        return np.minimum(seconds, self.seconds)

    def span(self, draw: Draw, frames: int, rate: int) -> Span:
        """Return the place of the window in a clip.

        Args:
            draw: The clip and its epoch.
            frames: Number of frames of the clip, at its own rate.
            rate: Rate of the clip in Hz.
        """
        wanted = self.frames_at(rate)
        if frames <= wanted:
            return Span(0, frames, whole=True)
        word = word_of(self.seed, Purpose.CROP_OFFSET, draw)
        # The word as a fraction of 2**64, in exact integers.
        return Span(word * (frames - wanted + 1) >> 64, wanted, whole=False)

    def fitted(self, audio: np.ndarray, rate: int, *, short: bool) -> np.ndarray:
        """Return a decoded window with its exact length.

        Resampling may make a window one frame shorter or longer than its seconds.

        Args:
            audio: `(frames, ...)`.
            rate: Rate of `audio` in Hz.
            short: Whether the clip was not longer than the window.
        """
        wanted = self.frames_at(rate)
        if len(audio) == wanted or (short and self.short_clips == "keep"):
            return audio
        fitted = np.zeros((wanted, *audio.shape[1:]), audio.dtype)
        kept = min(wanted, len(audio))
        fitted[:kept] = audio[:kept]
        return fitted


def check_short_clips(short_clips: ShortClips) -> None:
    """Check the option of that name.

    Raises:
        ValueError: it has no such value.
    """
    if short_clips not in ("keep", "pad"):
        raise ValueError(f"short_clips is {short_clips!r}, expected 'keep' or 'pad'")
