"""One upload through the per-file interface: data in parallel, metadata last, then a check.

At the very end, files of a replaced dataset that the new one does not have are deleted.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, TypeVar

import msgspec

from audiomdb.errors import CorruptShardError, UploadError
from audiomdb.locks import Lock
from audiomdb.notes import add_note
from audiomdb.shards.layout import DATA_FILE, LOCK_FILE, METADATA_FILE
from audiomdb.shards.metadata import MOST_METADATA_BYTES
from audiomdb.threads import Check, Stopped, each
from audiomdb.uploaders._replaced import NOTE_FILE, left_over, with_another

if TYPE_CHECKING:
    from audiomdb.uploaders.base import BaseUploader

__all__ = ["DatasetFile", "Sending", "stop_check"]

_T = TypeVar("_T")

_here = threading.local()
"""Holds in `check` what the current thread calls to learn that its upload is ending, if any."""


class DatasetFile(msgspec.Struct, frozen=True):
    """A file of a dataset.

    Attributes:
        full_path: Its path on this machine.
        rel_path: Its path in the dataset, with "/" and at most one directory deep.
        bytes: Its size.
        sha256: Hex digest of its content according to metadata, not verified yet; None if metadata
            has none. That of `metadata.json` is from the beginning of the upload.
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
            UploadError: this is `metadata.json`, which was replaced during the upload.
        """
        if self.sha256 in (None, digest):
            return
        if self.rel_path == METADATA_FILE:
            raise UploadError(
                f"{self.full_path} was replaced during the upload, and does not describe the files "
                "that were sent; upload again"
            )
        raise CorruptShardError(
            f"{self.full_path} has sha256 {digest}, metadata says {self.sha256}: it was changed "
            "since conversion. If the dataset was made anew meanwhile, upload it again; otherwise "
            "delete the shard and convert again"
        )


class Sending:
    """Sends the files of a dataset to a store. Used once.

    Args:
        store: The uploader, which sends single files.
        data: All files except `metadata.json`.
        metadata: `metadata.json`.
        on_bytes: Called with the size of each file that has arrived or was already there.

    Attributes:
        deleted: Number of files of a replaced dataset that were deleted.
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
        self._withdrawing = Lock()
        self._withdrawn = False
        self.deleted = 0
        self._left_over: dict[str, set[tuple[int, str]]] = {}
        self._may_delete = True

    def run(self) -> list[DatasetFile]:
        """Send all files that are not there yet, and return those that were sent.

        The first failure ends the upload, and so does an interrupt: files being sent are abandoned
        if their uploader uses `stop_check`, and waited for otherwise.
        """
        sent = self._side_by_side(
            self._bring_named, self._data, lambda file: self._on_bytes(file.bytes)
        )
        if self._bring_named(self._metadata):
            sent.append(self._metadata)
        if sent:
            self._side_by_side(self._look_again, self._data)
        self._on_bytes(self._metadata.bytes)
        self._clear()
        return sent

    def meets_another(self) -> bool:
        """Return whether the destination is known to hold other metadata than this dataset's."""
        there = self._stat(self._metadata.rel_path)
        return _is_another(there, self._metadata.bytes, self._digest(self._metadata))

    def _side_by_side(
        self,
        work: Callable[[_T], bool],
        files: Sequence[_T],
        on_done: Callable[[_T], None] = lambda _: None,
    ) -> list[_T]:
        """Run `work` on several files at once; return the files for which it returned True."""

        def run(file: _T, check: Check) -> tuple[_T, bool]:
            _here.check = check
            return file, work(file)

        found, workers = [], self._store.workers
        with closing(each(run, files, workers=workers, name="audiomdb-upload")) as ended:
            for file, yes in ended:
                if yes:
                    found.append(file)
                on_done(file)
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
        if _is_another(there, file.bytes, digest):
            if file is self._metadata:
                self._note_the_replaced()
            else:
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
                self._note_the_replaced()
                self._store.remove(self._metadata.rel_path)
                self._may_delete = self._stat(self._metadata.rel_path) is None
            self._withdrawn = True

    def _note_the_replaced(self) -> None:
        """Keep the metadata of the other dataset at the destination, for `_clear`."""
        there = self._read(self._metadata.rel_path)
        if there is None:
            return
        note = with_another(self._read(NOTE_FILE), there)
        if note is not None:
            with tempfile.NamedTemporaryFile(prefix="audiomdb-") as file:
                file.write(note)
                file.flush()
                self._store.upload_file(file.name, NOTE_FILE)

    def _clear(self) -> None:
        """Delete the files that only a replaced dataset had, now that this one is there."""
        note = self._read(NOTE_FILE)
        if note is None:
            return
        left = self._left_over = left_over(note, {file.rel_path for file in self._data})
        try:
            for files in (
                [path for path in left if not path.endswith(LOCK_FILE)],
                [path for path in left if path.endswith(LOCK_FILE)],
            ):
                self.deleted += len(self._side_by_side(self._delete, files))
            if self._may_delete:
                self._store.remove(NOTE_FILE)
            ours = not self.deleted or self._is_in_place()
        except Exception as exc:
            add_note(
                exc,
                "the dataset has arrived whole; of the one that it replaced, some files are still "
                "there, which another upload deletes",
            )
            raise
        if not ours:
            raise UploadError(
                f"{self._store.destination(self._metadata.rel_path)} was replaced while files of "
                "the dataset before were deleted: somebody else uploads another dataset there, "
                "which may lack some of these files now; let one of you upload again"
            )

    def _delete(self, path: str) -> bool:
        """Delete a file that only a replaced dataset had; return whether that was done."""
        there, versions = self._stat(path), self._left_over[path]
        if path.endswith(LOCK_FILE) and self._stat(f"{path.removesuffix(LOCK_FILE)}{DATA_FILE}"):
            return False  # it belongs to a shard that is not the old dataset's
        if there is None or not self._may_delete:
            return False
        if versions and there not in versions:  # as is one whose sha256 the store does not know
            return False
        if not self._is_in_place():
            self._may_delete = False  # somebody else replaces the dataset, with these files perhaps
            return False
        self._store.remove(path)
        if self._stat(path) is not None:
            self._may_delete = False
            return False
        return True

    def _is_in_place(self) -> bool:
        """Return whether the metadata at the destination is this dataset's, as far as is known."""
        there = self._stat(self._metadata.rel_path)
        digest = self._metadata.sha256 or self._digest(self._metadata)
        return there is not None and not _is_another(there, self._metadata.bytes, digest)

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

    def _read(self, rel_path: str) -> bytes | None:
        """Call the store's `read`, unless the file is larger than metadata can be."""
        there = self._stat(rel_path)
        if there is None or there[0] > MOST_METADATA_BYTES:
            return None
        return self._store.read(rel_path)

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


def stop_check() -> Check:
    """Implement `BaseUploader.stop_check`."""
    check: Check = getattr(_here, "check", lambda: None)
    return check


def _is_another(there: tuple[int, str | None] | None, size: int, digest: str) -> bool:
    """Return whether the file at the destination is known to differ from this one."""
    return there is not None and (there[0] != size or there[1] not in (None, digest))
