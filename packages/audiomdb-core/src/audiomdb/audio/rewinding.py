"""Go back a little in audio whose decoder cannot.

Speakers interrupt each other, so a segment of a conversation often begins before the last one's
end. Where a seek is not exact, that would mean decoding the recording from its start again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiomdb.audio.arrays import BLOCK_FRAMES

if TYPE_CHECKING:
    from audiomdb.audio.base_decoder import Decoder

__all__ = ["KEPT_BYTES", "RewindingDecoder"]

KEPT_BYTES = 1 << 24
"""Size of the decoded audio that is kept, 16 MiB: 262 s at 16 kHz, or 87 s at 48 kHz, mono."""


class RewindingDecoder:
    """Reads ranges of frames from a decoder, and keeps the last frames if it cannot seek.

    Not thread-safe.

    Args:
        decoder: The decoder, which `close` closes.
        held: Frames of the clip that it decodes to what they are in the whole clip.
    """

    def __init__(self, decoder: Decoder, held: range) -> None:
        self._decoder = decoder
        self._tail = None if decoder.seeks else _Tail(decoder, held)
        self.held = held
        self.frames = decoder.frames
        self.sample_rate = decoder.sample_rate
        self.channels = decoder.channels

    def close(self) -> None:
        """Close the decoder. Must be called only once."""
        self._decoder.close()

    def reaches(self, frame: int) -> bool:
        """Whether `read` can start at `frame`; if not, another decoder has to be opened."""
        return self._tail is None or self._tail.frames.start <= frame

    def nears(self, frame: int) -> bool:
        """Whether `frame` is kept, or ahead by little."""
        position = self._decoder.position
        back = position if self._tail is None else self._tail.frames.start
        # So far ahead, another decoder would not be there sooner.
        return back <= frame <= position + BLOCK_FRAMES

    def read(self, start: int, stop: int) -> np.ndarray:
        """Decode frames `[start, stop)`, or those of them that there are.

        Returns:
            float32 of shape `(frames,)`, or `(frames, channels)`; never a view of what is kept.
        """
        if self._tail is None:
            self._decoder.skip_to(start)
            return self._decoder.read(stop - start)
        self._go_to(start, self._tail)
        back = self._tail.cut(start, stop)
        position = self._decoder.position
        ahead = self._decoder.read(max(0, stop - position))
        self._tail.add(position, ahead)
        return np.concatenate([back, ahead]) if len(back) else ahead

    def _go_to(self, frame: int, tail: _Tail) -> None:
        """Decode up to `frame`, keeping as much as there is room for."""
        decoder = self._decoder
        decoder.skip_to(max(self.held.start, frame - tail.room))
        while decoder.position < frame:
            position = decoder.position
            block = decoder.read(min(BLOCK_FRAMES, frame - position))
            if not len(block):
                return
            tail.add(position, block)


class _Tail:
    """The last frames that a decoder returned, in a ring: frame `i` is at `i % room`."""

    def __init__(self, decoder: Decoder, held: range) -> None:
        ends = held.stop if decoder.frames is None else min(held.stop, decoder.frames)
        room = min(ends - held.start, KEPT_BYTES // (4 * decoder.channels))
        self.room = max(1, room)
        self.frames = range(held.start, held.start)
        shape = (self.room, decoder.channels) if decoder.channels > 1 else self.room
        self._ring = np.empty(shape, np.float32)

    def add(self, first: int, block: np.ndarray) -> None:
        """Add frames from `first` on, and forget the others if these do not follow on them."""
        stop = first + len(block)
        start = self.frames.start if first == self.frames.stop else first
        self.frames = range(max(start, stop - self.room), stop)
        block = block[-self.room :]
        at = (stop - len(block)) % self.room
        until_end = block[: self.room - at]
        self._ring[at : at + len(until_end)] = until_end
        self._ring[: len(block) - len(until_end)] = block[len(until_end) :]

    def cut(self, start: int, stop: int) -> np.ndarray:
        """Return a copy of those of the frames `[start, stop)` that are kept."""
        count = max(0, min(stop, self.frames.stop) - start)
        at = start % self.room
        until_end = self._ring[at : at + count]
        return np.concatenate([until_end, self._ring[: count - len(until_end)]])
