"""Report failed fetches to other threads and processes, by files.

A process that cannot fetch a file leaves a numbered note. A waiting thread remembers the number of
the last note from before it began to wait. If there is a newer note, it raises that failure instead
of waiting on or repeating the attempt. A thread that comes later tries again.

After one process has given up on the store, the others need not find out by themselves: for a
while, or until the store answers, each of them tries only once.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from audiomdb import errors
from audiomdb.errors import AudioMDBError, DownloadError
from audiomdb.notes import with_notes

__all__ = ["Failures", "Outage"]

_MAX_TEXT = 2000
_LONGEST_REASON = 500
_OUTAGE_S = 30.0


class _Note(msgspec.Struct, frozen=True):
    attempt: int
    kind: str
    text: str


class Failures:
    """Stores notes in a folder, one for each file whose last fetch failed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def attempt(self, name: str) -> int:
        """Return the number of a file's last failure; 0 when there is none."""
        note = self._read(name)
        return note.attempt if note else 0

    def raise_newer(self, name: str, than: int) -> None:
        """Raise the last failure of a file if its number is greater than `than`.

        Raises:
            AudioMDBError: the failure, of the same class, if it was a subclass of this.
            DownloadError: the failure was of any other class.
        """
        note = self._read(name)
        if note is None or note.attempt <= than:
            return
        kind = getattr(errors, note.kind, None)
        if isinstance(kind, type) and issubclass(kind, AudioMDBError):
            raise kind(note.text)
        raise DownloadError(f"{note.kind} in the process that fetched it: {note.text}")

    def record(self, name: str, error: Exception) -> None:
        """Leave a note; only call this while holding the right to fetch the file.

        A process that is exiting leaves none, because the failure may be due to that. If there is
        no note, which may also be because the disk is full, waiting threads try to fetch the file
        themselves.
        """
        if _is_exiting():
            return
        temporary = self._folder / f".{name}.{os.getpid()}"
        with suppress(OSError):
            note = _Note(
                self.attempt(name) + 1, type(error).__name__, with_notes(error)[:_MAX_TEXT]
            )
            temporary.write_bytes(msgspec.json.encode(note))
            temporary.replace(self._folder / name)

    def forget(self, name: str) -> None:
        """Remove the note of a file that has been fetched."""
        with suppress(OSError):
            (self._folder / name).unlink(missing_ok=True)

    def _read(self, name: str) -> _Note | None:
        try:
            return msgspec.json.decode((self._folder / name).read_bytes(), type=_Note)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None


class Outage:
    """Tells all processes of the machine, by a file, that one of them has given up on the store.

    Args:
        path: Path of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def lately(self) -> bool:
        """Return whether a process gave up in the last 30 s, and none has succeeded since."""
        try:
            age = time.time() - self._path.stat().st_mtime
        except OSError:
            return False
        return 0 <= age < _OUTAGE_S

    def begin(self, why: str = "") -> None:
        """Record that the store does not answer, and the error.

        During an outage that is already recorded, the first error is kept, because later ones are
        of a single attempt.
        """
        with suppress(OSError):  # without the file, others only take longer to find out
            if self.lately():
                self._path.touch()
            else:
                self._path.write_text(why[:_LONGEST_REASON], encoding="utf-8")

    def why(self) -> str:
        """Return the error recorded when the outage began; empty if unknown."""
        try:
            return self._path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def end(self) -> None:
        """Record that the store answers."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def _is_exiting() -> bool:
    """Return whether this process is exiting, so that executors accept no more work."""
    # While the main thread waits for executors, which already refuse work, it counts as alive.
    flagged = bool(getattr(threading, "_SHUTTING_DOWN", False))
    return flagged or not threading.main_thread().is_alive()
