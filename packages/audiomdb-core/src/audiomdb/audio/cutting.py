"""Cut windows out of clips, also many out of one clip that stays open in between."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from audiomdb.audio.arrays import no_frames
from audiomdb.audio.fast_decoders import decode_plain
from audiomdb.audio.inspection import inspect
from audiomdb.audio.opening import open_decoder
from audiomdb.audio.rewinding import RewindingDecoder
from audiomdb.audio.source import Source
from audiomdb.errors import AudioError, DamagedAudioError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audiomdb.audio.info import AudioSource
    from audiomdb.audio.structure import Excerpt

__all__ = ["Cutter", "Cutters"]

_ENDLESS = 2**62
"""More frames than any clip has."""

_AHEAD = 1 << 16
"""Frames beyond a window that a new decoder gets at least if windows follow on each other."""

_Version: TypeAlias = "tuple[object, ...] | None"


class Cutter:
    """Cuts windows out of one clip, which is inspected once. Not thread-safe.

    Where a seek is not exact, the decoder goes on from the end of the last window, and the last
    frames are kept. Windows in the order of their starts, which may overlap, therefore cost no more
    than decoding the clip once. A window that is far from there is cut out with a decoder of its
    own, if the format allows; for windows that follow on it, that decoder gets more and more of the
    clip at once.

    Args:
        source: Encoded bytes, or the path of a file.
        name: Name of the clip in error messages; the path by default.

    Raises:
        UnreadableAudioError: not audio, an unsupported format, or no such file.
        DamagedAudioError: the clip holds less than it announces, or is damaged.
    """

    def __init__(self, source: AudioSource, *, name: str | None = None) -> None:
        self._source = Source(source, name=name)
        try:
            self._structure = inspect(self._source)
        except BaseException:
            self._source.close()
            raise
        self._decoder: RewindingDecoder | None = None
        self._total: int | None = None

    def __enter__(self) -> Cutter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the clip. Idempotent."""
        self._close_decoder()
        self._source.close()

    def _close_decoder(self) -> None:
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            decoder.close()

    def cut(
        self, offset: float, duration: float | None, *, name: str | None = None
    ) -> tuple[np.ndarray, int]:
        """Decode a window, with the meaning and errors of `decode`; return audio and rate in Hz.

        After an error, close the cutter.

        Args:
            offset: Start in seconds; finite and not negative.
            duration: Length in seconds; None means to the end.
            name: Name in error messages from now on.
        """
        if name is not None:
            self._source.name = name
        plain, flac = self._structure.plain, self._structure.flac
        if flac is not None and self._structure.frames == 0:
            self._window(0, flac.sample_rate, offset, duration)
            return no_frames(flac.channels), flac.sample_rate
        if plain is not None:
            rate = plain.sample_rate
            start, stop = self._window(plain.frames, rate, offset, duration)
            audio = decode_plain(self._source, plain, start, stop)
            if audio is not None:
                return audio, rate
        total, rate = self._length()
        if total is None:
            return self._while_counting(offset, duration), rate
        start, stop = self._window(total, rate, offset, duration)
        return self._decoded(start, stop, total), rate

    def seconds(self) -> float | None:
        """Return the length of the clip; None if it is not known before all of it is decoded."""
        total, rate = self._length()
        return None if total is None else total / rate

    def channels(self) -> int:
        """Return the number of channels."""
        header = self._structure.plain or self._structure.flac or self._decoder or self._open()
        return header.channels

    def _length(self) -> tuple[int | None, int]:
        """Return the number of frames, None if it is not known yet, and the rate in Hz."""
        plain, flac = self._structure.plain, self._structure.flac
        if plain is not None:
            return plain.frames, plain.sample_rate
        if flac is not None:
            known = self._structure.frames
            return self._total if known is None else known, flac.sample_rate
        decoder = self._decoder or self._open()
        if self._total is None:
            self._total = decoder.frames
        return self._total, decoder.sample_rate

    def _open(
        self, excerpt: Excerpt | None = None, held: range = range(_ENDLESS)
    ) -> RewindingDecoder:
        """Open a decoder for the whole clip, or for an excerpt, in place of the last one."""
        self._close_decoder()
        decoder = open_decoder(self._source, self._structure, excerpt=excerpt)
        self._decoder = RewindingDecoder(decoder, held)
        return self._decoder

    def _decoded(self, start: int, stop: int, total: int) -> np.ndarray:
        decoder = self._reaching(start, stop, total)
        try:
            return self._read(decoder, start, stop, total)
        except DamagedAudioError:
            if self._structure.flac is None or decoder.held.stop == _ENDLESS:
                raise
        # Samples may look like the header of the frame that an excerpt was to begin with.
        return self._read(self._open(), start, stop, total)

    def _read(self, decoder: RewindingDecoder, start: int, stop: int, total: int) -> np.ndarray:
        audio = decoder.read(start, stop)
        if len(audio) != stop - start:
            raise self._source.damaged(
                f"frames {start} to {stop} of {total} decode to {len(audio)} frames instead of "
                f"{stop - start}"
            )
        return audio

    def _reaching(self, start: int, stop: int, total: int) -> RewindingDecoder:
        """Return the decoder, or another one, from which the window is decoded soonest."""
        decoder = self._decoder
        near = decoder is not None and decoder.nears(start)
        if decoder is not None and near and stop <= decoder.held.stop:
            return decoder
        if self._structure.excerpt is not None:
            until = stop
            if decoder is not None and near:
                # More each time, so that windows in order do not open a decoder each.
                until = min(total, stop + 2 * max(len(decoder.held), _AHEAD))
            excerpt = self._structure.excerpt(start, until, total)
            if excerpt is not None:
                return self._open(excerpt, range(start, until))
        if decoder is None or decoder.held.stop < _ENDLESS or not decoder.reaches(start):
            return self._open()
        return decoder

    def _while_counting(self, offset: float, duration: float | None) -> np.ndarray:
        """Decode the whole clip, since only its end shows that it is complete, and keep a window.

        Memory holds the window, not the clip.
        """
        pieces: list[np.ndarray] = []
        total = 0
        with open_decoder(self._source, self._structure) as decoder:
            start, stop = _range(_ENDLESS, decoder.sample_rate, offset, duration)
            for block in decoder.blocks():
                piece = block[max(0, start - total) : max(0, stop - total)]
                if len(piece) or not pieces:
                    pieces.append(piece.copy())
                total += len(block)
        self._window(total, decoder.sample_rate, offset, duration)
        self._total = total
        return np.concatenate(pieces)

    def _window(
        self, total: int, rate: int, offset: float, duration: float | None
    ) -> tuple[int, int]:
        start, stop = _range(total, rate, offset, duration)
        if start >= total and start > 0:
            raise AudioError(
                f"{self._source.name}: offset {offset} s is not before the end, at "
                f"{total / rate:.3f} s"
            )
        return start, stop


def _range(total: int, rate: int, offset: float, duration: float | None) -> tuple[int, int]:
    """Return the half-open range of frames that a window in seconds covers."""
    # Clamp before rounding: the product may overflow to infinity, which has no int.
    start = round(min(offset * rate, total + 1))
    stop = total if duration is None else round(min((offset + duration) * rate, total))
    return start, max(start, stop)


class Cutters:
    """Keeps the file open that a thread has cut a window from last, for its next window.

    A recording of an hour may have thousands of windows. Reading and checking all of an MP3 or Ogg
    for each of them would take as long as decoding it, and Opus is decoded from its start.

    Thread-safe: each thread has a file of its own. In another process, the copy that arrives there
    is the one object of that process, whose files stay open until other files take their places.
    """

    def __init__(self) -> None:
        # Threads may go on after `close`, so a file in use is not in here.
        self._idle: dict[tuple[int, int], tuple[_Version, Cutter]] = {}
        self._closed = False

    def __reduce__(self) -> tuple[object, ...]:
        return _of_this_process, ()

    def cut(
        self, path: str | os.PathLike[str], offset: float, duration: float | None, *, name: str
    ) -> tuple[np.ndarray, int]:
        """Decode a window of a file as `Cutter.cut` does; `name` is that of the window."""
        with self._cutter(path, name) as cutter:
            return cutter.cut(offset, duration, name=name)

    def seconds(self, path: str | os.PathLike[str], *, name: str) -> float | None:
        """Return the length of a file as `Cutter.seconds` does; `name` is that of its window."""
        with self._cutter(path, name) as cutter:
            return cutter.seconds()

    def channels(self, path: str | os.PathLike[str], *, name: str) -> int:
        """Return the number of channels of a file; `name` is that of its window."""
        with self._cutter(path, name) as cutter:
            return cutter.channels()

    @contextmanager
    def _cutter(self, path: str | os.PathLike[str], name: str) -> Iterator[Cutter]:
        """Use this thread's cutter of a file, and keep it unless an exception is raised."""
        # With the process: a child after a fork would share the position in the file.
        me = (os.getpid(), threading.get_ident())
        version = _version(path)
        opened, cutter = self._idle.pop(me, (None, None))
        if cutter is not None and (version is None or opened != version):
            cutter.close()
            cutter = None
        if cutter is None:
            cutter = Cutter(path, name=name)
        try:
            yield cutter
        except BaseException:
            cutter.close()
            raise
        self._idle[me] = version, cutter
        if self._closed:
            self.close()

    def close(self) -> None:
        """Close all files, those in use after their window. Idempotent."""
        self._closed = True
        while self._idle:
            try:
                _, (_, cutter) = self._idle.popitem()
            except KeyError:  # another thread took the last one
                return
            cutter.close()


def _version(path: str | os.PathLike[str]) -> _Version:
    """Return what changes if the file at a path is replaced or written to; None if unknown."""
    try:
        status = os.stat(path)  # noqa: PTH116 (a Path costs more than the call)
    except (OSError, ValueError):  # opening it says why
        return None
    return os.fspath(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@cache
def _of_this_process() -> Cutters:
    return Cutters()
