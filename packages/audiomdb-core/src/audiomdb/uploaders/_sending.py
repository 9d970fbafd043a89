"""One upload at the finer level: files sent side by side, metadata last, and a look at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from audiomdb.errors import CorruptShardError, UploadError
from audiomdb.notes import add_note

if TYPE_CHECKING:
    from audiomdb.uploaders.base import BaseUploader

__all__ = ["DatasetFile", "Sending", "Stopped", "stop_check"]

_here = threading.local()
"""What the thread works for, if it is one of an upload's."""


class Stopped(Exception):  # noqa: N818
    """A file was given up because its upload ends; never seen outside."""


class DatasetFile(msgspec.Struct, frozen=True):
    """A file of a dataset.

    Attributes:
        full_path: Where it is.
        rel_path: Where it is in the dataset, with "/" and at most one directory deep.
        bytes: Its size.
        sha256: Hex digest of its content, where metadata knows it; not compared yet.
    """

    full_path: str
    rel_path: str
    bytes: int
    sha256: str | None = None

    def refuse_changed(self, digest: str) -> None:
        """Compare what the file holds now with what conversion wrote.

        Args:
            digest: Hex sha256 of its content.

        Raises:
            CorruptShardError: metadata knows another one.
        """
        if self.sha256 not in (None, digest):
            raise CorruptShardError(
                f"{self.full_path} has sha256 {digest}, metadata says {self.sha256}: it was "
                "changed since conversion. Delete the shard and convert again"
            )


class Sending:
    """Brings the files of a dataset to a store. Used once.

    Args:
        store: The uploader, which sends single files.
        data: All files but metadata.
        metadata: That one.
        on_bytes: Told how many bytes more are there.
    """

    def __init__(
        self,
        store: BaseUploader,
        data: Sequence[DatasetFile],
        metadata: DatasetFile,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._store = store
        self._data = data
        self._metadata = metadata
        self._on_bytes = on_bytes
        self._stop = threading.Event()
        self._withdrawing = threading.Lock()
        self._withdrawn = False

    def run(self) -> list[DatasetFile]:
        """Bring all files there; those that had to be sent.

        What fails first ends the rest, and so does an interrupt: files under way are given up
        where their uploader asks `stop_check`, and waited for elsewhere.
        """
        sent = self._side_by_side(self._bring_named, self._data, self._on_bytes)
        if self._bring_named(self._metadata):
            sent.append(self._metadata)
        if sent:
            self._side_by_side(self._look_again, self._data)
        self._on_bytes(self._metadata.bytes)
        return sent

    def _side_by_side(
        self,
        work: Callable[[DatasetFile], bool],
        files: Sequence[DatasetFile],
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> list[DatasetFile]:
        """Do some work on several files at once; the files for which it says True."""
        from concurrent.futures import ThreadPoolExecutor, as_completed

        pool = ThreadPoolExecutor(
            self._store.workers, "audiomdb-upload", initializer=_work_for, initargs=(self._stop,)
        )
        found = []
        try:
            works = {pool.submit(work, file): file for file in files}
            for done in as_completed(works):
                if done.result():
                    found.append(works[done])
                on_bytes(works[done].bytes)
        except BaseException:
            self._stop.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return found

    def _bring_named(self, file: DatasetFile) -> bool:
        with self._named("sent", file):
            return self._bring(file)

    def _bring(self, file: DatasetFile) -> bool:
        """Bring one file to its destination; whether it had to be sent."""
        there = self._stat(file.rel_path)
        digest = file.sha256
        if there is not None and there[0] == file.bytes:
            digest = digest or self._digest(file)
            if file.bytes == 0 or there[1] == digest:
                return False
        digest = self._digest(file)
        file.refuse_changed(digest)
        if file is not self._metadata and _is_another(there, file.bytes, digest):
            self._withdraw()
        self._store.upload_file(file.full_path, file.rel_path)
        self._check_arrival(file, digest)
        return True

    def _withdraw(self) -> None:
        """Have no dataset there, before a file of another one is replaced."""
        with self._withdrawing:
            if self._withdrawn:
                return
            name = self._metadata.rel_path
            there = self._stat(name)
            # Where it is ours, what is replaced is a damaged copy.
            if _is_another(there, self._metadata.bytes, self._digest(self._metadata)):
                self._store.remove(name)
            self._withdrawn = True

    def _check_arrival(self, file: DatasetFile, digest: str) -> None:
        arrived = self._stat(file.rel_path)
        place = self._store.destination(file.rel_path)
        if arrived is None:
            raise UploadError(f"{place} is not there after its upload; upload again")
        size, found = arrived
        if size != file.bytes:
            raise UploadError(
                f"{place} arrived with {size} bytes instead of {file.bytes}; upload again"
            )
        if found not in (None, digest):
            raise UploadError(
                f"{place} arrived with sha256 {found} instead of {digest}; upload again"
            )

    def _look_again(self, file: DatasetFile) -> bool:
        """Refuse to call whole what another upload has changed meanwhile.

        Of two uploads at once, the one whose metadata comes last looks last.
        """
        with self._named("looked at", file):
            there = self._stat(file.rel_path)
        digest = file.sha256 or self._digest(file)
        if there is not None and not _is_another(there, file.bytes, digest):
            return True
        name = self._metadata.rel_path
        metadata = self._stat(name)
        if not _is_another(metadata, self._metadata.bytes, self._digest(self._metadata)):
            self._store.remove(name)
        raise UploadError(
            f"{self._store.destination(file.rel_path)} was replaced after it had arrived: somebody "
            "else uploads another dataset there. What lies there may be a mixture of both; upload "
            "again when they have ended"
        )

    def _stat(self, rel_path: str) -> tuple[int, str | None] | None:
        """What the store says of a file, checked where it comes in; the digest in small letters.

        Raises:
            TypeError: it is not what it has to be; names class, method and path.
        """
        found: object = self._store.stat(rel_path)
        if found is None:
            return None
        match found:
            case (size, str() | None as digest) if hasattr(size, "__index__"):
                return int(size), digest and digest.lower()
        raise TypeError(
            f"{type(self._store).__name__}.stat({rel_path!r}) returned {found!r}, expected a tuple "
            "of size in bytes and sha256 in hex (or None in its place), or None where there is no "
            "file"
        )

    @contextmanager
    def _named(self, did: str, file: DatasetFile) -> Iterator[None]:
        """Note with what a store's code raises which file it was about, unless that says so."""
        try:
            yield
        except Exception as exc:
            if not isinstance(exc, Stopped) and file.rel_path not in str(exc):
                add_note(exc, f"while {type(self._store).__name__} {did} {file.rel_path}")
            raise

    def _digest(self, file: DatasetFile) -> str:
        try:
            return self._store.sha256(file.full_path)
        except OSError as exc:
            raise UploadError(f"cannot read {file.full_path}: {exc.strerror}") from exc


def stop_check() -> Callable[[], None]:
    """What `BaseUploader.stop_check` gives."""
    stop: threading.Event | None = getattr(_here, "stop", None)

    def check() -> None:
        if stop is not None and stop.is_set():
            raise Stopped

    return check


def _work_for(stop: threading.Event) -> None:
    _here.stop = stop


def _is_another(there: tuple[int, str | None] | None, size: int, digest: str) -> bool:
    """Whether what lies there is known to be another file than this one."""
    return there is not None and (there[0] != size or there[1] not in (None, digest))
