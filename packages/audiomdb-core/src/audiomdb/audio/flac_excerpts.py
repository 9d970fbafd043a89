"""Make a smaller FLAC of the frames that a window lies in.

libsndfile gets a copy of a clip in memory (see `handle`). Of a recording of an hour, the copy costs
many times as much as decoding a window of some seconds, and reads all of it from the disk. Frames
of one size carry their numbers, so those of the window are found without looking at the others.
"""

from __future__ import annotations

from audiomdb.audio.flac_frames import LONGEST_FRAME_HEADER, read_frame_header
from audiomdb.audio.structure import Excerpt

__all__ = ["SMALLEST_SEARCHED", "FlacExcerpts"]

SMALLEST_SEARCHED = 1 << 20
"""Bytes of a clip from which on a search costs less than a copy."""

_SYNC = b"\xff\xf8"
_BEGINNING = b"fLaC\x80\x00\x00\x22"
_PIECE = 1 << 15
_CLOSE = 4
"""So many frames are gone through one by one."""

_MOST_STEPS = 100


class FlacExcerpts:
    """Makes excerpts of a FLAC whose frames all have one size, except for the last.

    Args:
        view: The clip.
        stream_info: Content of its first metadata block.
        audio_start: Byte at which its first frame begins.
    """

    def __init__(self, view: memoryview, stream_info: bytes, audio_start: int) -> None:
        self._view = view
        self._stream_info = stream_info
        self._audio_start = audio_start
        self._block_size = int.from_bytes(stream_info[:2], "big")

    def __call__(self, start: int, stop: int, total: int) -> Excerpt | None:
        """Return a file with the samples `[start, stop)` of `total`.

        None if a frame is not found, or if the window is most of the clip.
        """
        first, count = start // self._block_size, -(-total // self._block_size)
        end = max(first + 1, -(-stop // self._block_size))
        behind = len(self._view)
        begin = self._position(first, (0, self._audio_start), (count, behind))
        if begin is not None and end < count:
            behind = self._position(end, (first, begin), (count, behind)) or 0
        if begin is None or not 0 < behind - begin < len(self._view) // 2:
            return None
        samples = min(end * self._block_size, total) - first * self._block_size
        head = _BEGINNING + _with_total(self._stream_info, samples)
        return Excerpt(head + self._view[begin:behind], first * self._block_size)

    def _position(self, number: int, low: tuple[int, int], high: tuple[int, int]) -> int | None:
        """Return the byte at which a frame begins, by the numbers and places of two around it."""
        last = high[0] - 1
        for _ in range(_MOST_STEPS):
            (before, at), (behind, limit) = low, high
            if before == number:
                return at
            guess = at + 1
            if number - before > _CLOSE:
                guess += (limit - at) * (number - before) // (behind - before)
            found = self._next(guess, limit, range(before + 1, behind), last)
            if found is None:
                # All of those between begin before the guess.
                high = (behind, guess)
            elif found[0] <= number:
                low = found
            else:
                high = found
        return None

    def _next(self, at: int, limit: int, numbers: range, last: int) -> tuple[int, int] | None:
        """Return number and place of the first frame from `at` on that has one of these numbers."""
        for begin in range(at, limit, _PIECE):
            piece = bytes(self._view[begin : begin + _PIECE + LONGEST_FRAME_HEADER])
            place = piece.find(_SYNC)
            while 0 <= place < min(_PIECE, limit - begin):
                header = read_frame_header(piece[place : place + LONGEST_FRAME_HEADER])
                # Samples can look like a header by chance.
                if (
                    header is not None
                    and header.number in numbers
                    and (header.block_size == self._block_size or header.number == last)
                ):
                    return header.number, begin + place
                place = piece.find(_SYNC, place + 1)
        return None


def _with_total(stream_info: bytes, samples: int) -> bytes:
    """The same of so many samples, whose digest is not known."""
    packed = int.from_bytes(stream_info[10:18], "big") >> 36 << 36 | samples
    return stream_info[:10] + packed.to_bytes(8, "big") + bytes(16)
