"""Have soundfile read and write files from their start to their end, in any thread or process."""

from __future__ import annotations

import os

import soundfile

from audiomdb.locks import Lock

__all__ = ["SoundFile"]


class SoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file that claims not to be seekable. Whoever opens it closes it.

    After every read, soundfile would seek to where it expects to be, which fails at the end of a
    FLAC of unknown length and in GSM 6.10, and hides the real error.
    """

    # soundfile's finalizer is Python code, and an interrupt that arrives while a finalizer runs is
    # lost.
    __del__ = staticmethod(bool)

    def seekable(self) -> bool:
        """Return False: see above."""
        return False

    @property
    def can_seek(self) -> bool:
        """Whether libsndfile can seek; it cannot in GSM 6.10 and some kinds of ADPCM."""
        return bool(super().seekable())


def _renew_lock() -> None:
    # Since 0.14, soundfile opens files under a lock of this name, which a thread may hold during a
    # fork. The child would wait for it for ever.
    soundfile.SoundFile._sf_error_lock = Lock()


_renew_lock()  # also for interrupts, see `audiomdb.locks`
if hasattr(os, "register_at_fork"):  # not on Windows, where datasets can be read in place
    os.register_at_fork(after_in_child=_renew_lock)
