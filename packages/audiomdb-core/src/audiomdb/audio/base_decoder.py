"""The decoder that is always there: libsndfile, read from front to back.

Three habits of `soundfile.read` are worked around. It asks for the position and seeks there after
every read, which fails at the end of a FLAC of unknown length and in GSM 6.10, and hides the real
error. It allocates for the announced length before anything is decoded. And it takes fewer frames
than announced for an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import soundfile

from audiomdb.audio.arrays import BELIEVED_BYTES, BELIEVED_RATIO
from audiomdb.audio.flac import StreamDigest
from audiomdb.audio.handle import handle_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audiomdb.audio.source import Source
    from audiomdb.audio.structure import Excerpt, Structure
    from audiomdb.errors import AudioError

__all__ = ["BLOCK_FRAMES", "Decoder"]

BLOCK_FRAMES = 1 << 16
"""Frames decoded at a time where the result is not wanted, or its size not believed."""


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file that says it cannot seek, so that soundfile does not do so after every read."""

    # soundfile's own is Python, and an interrupt that comes while a finalizer runs is lost. Who
    # decodes closes the file.
    __del__ = staticmethod(bool)

    def seekable(self) -> bool:
        return False

    @property
    def can_seek(self) -> bool:
        """Whether libsndfile can: in GSM 6.10 and some kinds of ADPCM it cannot."""
        return bool(super().seekable())


class Decoder:
    """A clip, or an excerpt made from it, that is being decoded.

    Used by one thread, closed by `with`.

    Raises:
        UnreadableAudioError: libsndfile does not know the coding.
        DamagedAudioError: the stream's own header is broken.
    """

    def __init__(self, source: Source, structure: Structure, excerpt: Excerpt | None) -> None:
        self._source = source
        self._structure = structure
        self._file, excerpt = self._open(excerpt)
        self._lead = excerpt.lead if excerpt is not None else 0
        self.sample_rate = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.container: str = self._file.format
        self.subtype: str = self._file.subtype

    def _open(self, excerpt: Excerpt | None) -> tuple[_ForwardFile, Excerpt | None]:
        rebuild = self._structure.rebuild if excerpt is None else None
        if excerpt is None and self._structure.instead is not None:
            excerpt = self._structure.instead()
        handle = self._source.handle() if excerpt is None else handle_of(memoryview(excerpt.octets))
        try:
            file = _ForwardFile(handle.target, closefd=False)
        except BaseException as error:
            handle.close()
            if isinstance(error, soundfile.LibsndfileError):
                raise self._not_opened(error) from error
            raise
        self._handle = handle
        frames = self._structure.frames
        if rebuild is None or (frames is not None and int(file.frames) >= frames):
            return file, excerpt
        file.close()
        handle.close()
        return self._open(rebuild())

    def _not_opened(self, error: soundfile.LibsndfileError) -> AudioError:
        reason = f"libsndfile cannot open this {self._structure.container}: {_text(error)}"
        # The container's own rules were met, so what is wrong with these lies in the stream.
        if self._structure.container in ("FLAC", "OGG", "MP3"):
            return self._source.damaged(reason)
        return self._source.unreadable(reason)

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._handle.close()

    @property
    def frames(self) -> int | None:
        """Frames that a whole decode must give; None where only decoding can tell."""
        if self._structure.frames is not None:
            return self._structure.frames
        if not self._structure.frames_known:
            return None
        return max(0, int(self._file.frames) - self._lead)

    def skip_to(self, frame: int) -> None:
        """Make `frame` the next one to be read, by seeking where that is exact."""
        if self._structure.seekable and self._file.can_seek and not self._lead:
            if frame:
                self._seek(frame)
            return
        self._discard(self._lead + frame)

    def _seek(self, frame: int) -> None:
        try:
            reached = self._file.seek(frame)
        except soundfile.LibsndfileError as error:
            raise self._stopped(error) from error
        if reached != frame:
            raise self._source.damaged(f"seeking to frame {frame} leads to frame {reached}")

    def _discard(self, frames: int) -> None:
        while frames > 0:
            got = len(self._read(min(frames, BLOCK_FRAMES)))
            if got == 0:
                return
            frames -= got

    def skip_lead(self) -> None:
        """Drop the frames of an excerpt that were not asked for."""
        self._discard(self._lead)

    def read(self, count: int) -> np.ndarray:
        """The next `count` frames, or all that are left.

        Returns:
            float32 of shape `(frames,)`, or `(frames, channels)` with several channels.
        """
        believed = max(BELIEVED_BYTES, BELIEVED_RATIO * self._source.size)
        if count * self.channels * 4 <= believed:
            return self._read(count)
        blocks = []
        while count > 0:
            block = self._read(min(count, BLOCK_FRAMES))
            blocks.append(block)
            count -= len(block)
            if len(block) < BLOCK_FRAMES:
                break
        return np.concatenate(blocks)

    def _read(self, count: int) -> np.ndarray:
        out = np.empty(count if self.channels == 1 else (count, self.channels), np.float32)
        try:
            part: np.ndarray = self._file.read(count, out=out)
        except soundfile.LibsndfileError as error:
            raise self._stopped(error) from error
        return part

    def _stopped(self, error: soundfile.LibsndfileError) -> AudioError:
        return self._source.damaged(
            f"decoding this {self._structure.container} stops in the middle: {_text(error)}"
        )

    def read_all(self) -> np.ndarray:
        """The whole clip.

        Raises:
            DamagedAudioError: the decoder stops, or gives another number of frames than the
                container holds.
        """
        if self.frames is None:
            audio = np.concatenate(list(self.blocks()))
        else:
            self.skip_lead()
            audio = self.read(self.frames)
            self._compare(len(audio))
        return audio

    def blocks(self) -> Iterator[np.ndarray]:
        """The whole clip in blocks of `BLOCK_FRAMES`, checked as by `read_all`."""
        flac = self._structure.flac
        digest = StreamDigest(flac) if flac is not None and self.frames is None else None
        self.skip_lead()
        total = 0
        while True:
            block = self._read(BLOCK_FRAMES)
            total += len(block)
            if digest is not None:
                digest.update(block)
            yield block
            if len(block) < BLOCK_FRAMES:
                break
        if digest is not None and not digest.agrees():
            raise self._source.damaged(
                f"the {total} frames of this FLAC do not match its MD5: it is cut off, or damaged"
            )
        self._compare(total)

    def _compare(self, got: int) -> None:
        if self.frames is not None and got != self.frames:
            raise self._source.damaged(
                f"this {self._structure.container} holds {self.frames} frames and decodes to {got}"
            )


def _text(error: soundfile.LibsndfileError) -> str:
    # libsndfile 1.2.2 has no words for some of its numbers.
    text = error.error_string.strip().removeprefix("Error : ").rstrip(".")
    return text or f"libsndfile error {error.code}"
