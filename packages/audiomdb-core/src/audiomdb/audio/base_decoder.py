"""Decode audio with libsndfile, the decoder that is always available.

This module works around two habits of `soundfile.read`. It allocates memory for the announced
length before anything is decoded. And it accepts fewer frames than announced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import soundfile

from audiomdb.audio.arrays import BLOCK_FRAMES, believed_bytes
from audiomdb.audio.flac import StreamDigest
from audiomdb.audio.handle import handle_of
from audiomdb.audio.sound_file import SoundFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audiomdb.audio.source import Source
    from audiomdb.audio.structure import Excerpt, Structure
    from audiomdb.errors import AudioError

__all__ = ["Decoder"]


class Decoder:
    """An open libsndfile decoder for a clip, or for an excerpt made from it.

    A context manager; not thread-safe. `position` is the frame of the clip that it decodes next,
    negative before an excerpt's first frame of the clip.

    Raises:
        UnreadableAudioError: libsndfile does not support the coding.
        DamagedAudioError: the header of the stream is broken.
    """

    def __init__(self, source: Source, structure: Structure, excerpt: Excerpt | None) -> None:
        self._source = source
        self._structure = structure
        self._file, excerpt = self._open(excerpt)
        self._first = excerpt.first if excerpt is not None else 0
        self.position = self._first
        self.sample_rate = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.container: str = self._file.format
        self.subtype: str = self._file.subtype

    def _open(self, excerpt: Excerpt | None) -> tuple[SoundFile, Excerpt | None]:
        rebuild = self._structure.rebuild if excerpt is None else None
        if excerpt is None and self._structure.instead is not None:
            excerpt = self._structure.instead()
        handle = self._source.handle() if excerpt is None else handle_of(memoryview(excerpt.octets))
        try:
            file = SoundFile(handle.target, closefd=False)
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
        # These containers have already passed their own checks, so the stream must be damaged.
        if self._structure.container in ("FLAC", "OGG", "MP3"):
            return self._source.damaged(reason)
        return self._source.unreadable(f"{reason}; convert it to FLAC first")

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the decoder. Must be called only once."""
        self._file.close()
        self._handle.close()

    @property
    def frames(self) -> int | None:
        """Number of frames in the whole clip; None if only decoding can tell."""
        if self._structure.frames is not None or self._structure.flac is not None:
            return self._structure.frames
        return max(0, int(self._file.frames) + self._first)

    def skip_to(self, frame: int) -> None:
        """Move to `frame`: seek if that is exact, or else decode and discard up to there."""
        if not self.seeks:
            self._discard(frame - self.position)
        elif frame != self.position:
            self._seek(frame)

    @property
    def seeks(self) -> bool:
        """Whether `skip_to` seeks, and can go back."""
        return self._structure.seekable and self._file.can_seek and self._first == 0

    def _seek(self, frame: int) -> None:
        try:
            reached = self._file.seek(frame)
        except soundfile.LibsndfileError as error:
            raise self._stopped(error) from error
        if reached != frame:
            raise self._source.damaged(f"seeking to frame {frame} leads to frame {reached}")
        self.position = frame

    def _discard(self, frames: int) -> None:
        while frames > 0:
            got = len(self._read(min(frames, BLOCK_FRAMES)))
            if got == 0:
                return
            frames -= got

    def read(self, count: int) -> np.ndarray:
        """Decode the next `count` frames, or all that are left.

        Returns:
            float32 of shape `(frames,)`, or `(frames, channels)` if there are several channels.
        """
        if count * self.channels * 4 <= believed_bytes(self._source.size):
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
        self.position += len(part)
        return part

    def _stopped(self, error: soundfile.LibsndfileError) -> AudioError:
        return self._source.damaged(
            f"decoding this {self._structure.container} stops in the middle: {_text(error)}"
        )

    def read_all(self) -> np.ndarray:
        """Decode the whole clip.

        Raises:
            DamagedAudioError: decoding fails, or gives another number of frames than the container
                holds.
        """
        if self.frames is None:
            audio = np.concatenate(list(self.blocks()))
        else:
            self.skip_to(0)
            audio = self.read(self.frames)
            self._compare(len(audio))
        return audio

    def blocks(self) -> Iterator[np.ndarray]:
        """Decode the whole clip in blocks of `BLOCK_FRAMES`, with the checks of `read_all`."""
        flac = self._structure.flac
        digest = StreamDigest(flac) if flac is not None and self.frames is None else None
        self.skip_to(0)
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
    # libsndfile 1.2.2 has no message for some of its error codes.
    text = error.error_string.strip().removeprefix("Error : ").rstrip(".")
    return text or f"libsndfile error {error.code}"
