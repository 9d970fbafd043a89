"""Random windows of clips: where they lie is drawn before anything is decoded."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec
import numpy as np

from audiomdb.plan.bits import Purpose, random_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CROP_OFFSET", "CROP_SECONDS", "Crop", "ShortClips", "Span"]

CROP_OFFSET = "crop_offset"
"""Field of a cropped sample: where in its clip the crop begins, in seconds."""

CROP_SECONDS = "crop_seconds"
"""Field of a cropped sample: seconds of the clip that are in it; padding does not count."""

ShortClips: TypeAlias = Literal["keep", "pad"]
"""What becomes of clips that are shorter than a crop."""

_BLOCK = 1024
"""Clips whose random words are drawn together: a draw costs 10 us, whatever its size."""


class Span(msgspec.Struct, frozen=True):
    """Frames `[start, start + frames)` of a clip, at the clip's own rate.

    Attributes:
        start: First frame.
        frames: How many.
        whole: Whether that is all of the clip.
    """

    start: int
    frames: int
    whole: bool


class Crop(msgspec.Struct, frozen=True):
    """Cut a window of so many seconds out of every clip, at random.

    Where it lies is a function of seed, epoch and the clip's position in the dataset: ranks,
    workers, threads and what else is read make no difference, and a run that is resumed gets the
    same windows. All starts at which the window fits are equally likely.

    Args:
        seconds: Length of the window.
        seed: 0 to 2**64 - 1.
        short: A clip that is not longer than the window is taken whole; "pad" fills it up with
            zeros at its end, "keep" leaves it short.

    Raises:
        ValueError: an option is out of range.
    """

    seconds: float
    seed: int = 0
    short: ShortClips = "keep"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"seconds is {self.seconds}, expected more than 0")
        if self.short not in ("keep", "pad"):
            raise ValueError(f"short_clips is {self.short!r}, expected 'keep' or 'pad'")

    def frames_at(self, rate: int) -> int:
        """Frames of a window at a rate in Hz."""
        return max(1, round(self.seconds * rate))

    def lasts(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the seconds of what is made of clips of `seconds`, NaN of NaN; both `(n,)`."""
        if self.short == "pad":
            return np.where(np.isnan(seconds), seconds, self.seconds)
        return np.minimum(seconds, self.seconds)

    def span(self, epoch: int, position: int, frames: int, rate: int) -> Span:
        """Where the window of a clip lies.

        Args:
            epoch: 0 to 2**32 - 1.
            position: Of the clip in its dataset.
            frames: Of the clip, at its own rate.
            rate: That rate in Hz.
        """
        wanted = self.frames_at(rate)
        if frames <= wanted:
            return Span(0, frames, whole=True)
        block, place = divmod(position, _BLOCK)
        word = int(_words(self.seed, epoch, block)[place])
        # The word as a fraction of 2**64, in exact integers.
        return Span(word * (frames - wanted + 1) >> 64, wanted, whole=False)

    def fitted(self, audio: np.ndarray, rate: int, *, short: bool) -> np.ndarray:
        """Give a decoded window its exact length.

        Resampling a window may give a frame more or less than its seconds say.

        Args:
            audio: `(frames, ...)`.
            rate: Of `audio`, in Hz.
            short: Whether the clip was no longer than the window.
        """
        wanted = self.frames_at(rate)
        if len(audio) == wanted or (short and self.short == "keep"):
            return audio
        fitted = np.zeros((wanted, *audio.shape[1:]), audio.dtype)
        kept = min(wanted, len(audio))
        fitted[:kept] = audio[:kept]
        return fitted


@lru_cache(maxsize=256)
def _words(seed: int, epoch: int, block: int) -> NDArray[np.uint64]:
    start = block * _BLOCK
    return random_words(seed, epoch, Purpose.CROP_OFFSET, start=start, stop=start + _BLOCK)
