"""One upload through the per-file interface: data in parallel, metadata last, then a check."""

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
"""Holds in `stop` the event that ends the upload that the current thread works for, if any."""


class Stopped(Exception):  # noqa: N818
    """Raised to abandon a file because its upload is ending; never leaves this package."""


class DatasetFile(msgspec.Struct, frozen=True):
    """A file of a dataset.

    Attributes:
        full_path: Its path on this machine.
        rel_path: Its path in the dataset, with "/" and at most one directory deep.
        bytes: Its size.
        sha256: Hex digest of its content according to metadata, not verified yet; None if metadata
            has none.
    """

    full_path: str
    rel_path: str
    bytes: int
    sha256: str | None = None

    def refuse_changed(self, digest: str) -> None:
        """Refuse a file whose content is not what conversion wrote.

        Args:
            digest: Hex sha256 of its current content.

        Raises:
            CorruptShardError: metadata has another digest.
        """
        if self.sha256 not in (None, digest):
            raise CorruptShardError(
                f"{self.full_path} has sha256 {digest}, metadata says {self.sha256}: it was "
                "changed since conversion. Delete the shard and convert again"
            )


class Sending:
    """Sends the files of a dataset to a store. Used once.

    Args:
        store: The uploader, which sends single files.
        data: All files except `metadata.json`.
        metadata: `metadata.json`.
        on_bytes: Called with the size of each file that has arrived or was already there.
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
        """Send all files that are not there yet, and return those that were sent.

        The first failure ends the upload, and so does an interrupt: files being sent are abandoned
        if their uploader uses `stop_check`, and waited for otherwise.
        """
        sent = self._side_by_side(self._bring_named, self._data, self._on_bytes)
        if self._bring_named(self._metadata):
            sent.append(self._metadata)
        if sent:
            self._side_by_side(self._look_again, self._data)
        self._on_bytes(self._metadata.bytes)
        return sent

    def meets_another(self) -> bool:
        """Return whether the destination is known to hold other metadata than this dataset's."""
        there = self._stat(self._metadata.rel_path)
        return _is_another(there, self._metadata.bytes, self._digest(self._metadata))

    def _side_by_side(
        self,
        work: Callable[[DatasetFile], bool],
        files: Sequence[DatasetFile],
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> list[DatasetFile]:
        """Run `work` on several files at once; return the files for which it returned True."""
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
        """Get one file to its destination, and return whether it had to be sent."""
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
        """Delete the metadata of another dataset, before one of its files is replaced."""
        with self._withdrawing:
            if self._withdrawn:
                return
            # If the metadata is ours, the file being replaced is a damaged copy of this dataset.
            if self.meets_another():
                self._store.remove(self._metadata.rel_path)
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
        """Raise if another upload has replaced a file in the meantime.

        Of two concurrent uploads, the one that sends its metadata last also checks last.
        """
        with self._named("looked at", file):
            there = self._stat(file.rel_path)
        digest = file.sha256 or self._digest(file)
        if there is not None and not _is_another(there, file.bytes, digest):
            return True
        if not self.meets_another():
            self._store.remove(self._metadata.rel_path)
        raise UploadError(
            f"{self._store.destination(file.rel_path)} was replaced after it had arrived: somebody "
            "else uploads another dataset there. What lies there may be a mixture of both; upload "
            "again when they have ended"
        )

    def _stat(self, rel_path: str) -> tuple[int, str | None] | None:
        """Call the store's `stat`, check its result, and convert the digest to lower case.

        Raises:
            TypeError: the result has the wrong type; names class, method and path.
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
        """Add a note naming the file to exceptions from a store's code that do not name it."""
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
    """Implement `BaseUploader.stop_check`."""
    stop: threading.Event | None = getattr(_here, "stop", None)

    def check() -> None:
        if stop is not None and stop.is_set():
            raise Stopped

    return check


def _work_for(stop: threading.Event) -> None:
    _here.stop = stop


def _is_another(there: tuple[int, str | None] | None, size: int, digest: str) -> bool:
    """Return whether the file at the destination is known to differ from this one."""
    return there is not None and (there[0] != size or there[1] not in (None, digest))
