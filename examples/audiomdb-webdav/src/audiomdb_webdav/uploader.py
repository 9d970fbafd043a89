"""Uploading datasets to a WebDAV server."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

from audiomdb.errors import UploadError
from audiomdb.uploaders.base import BaseUploader
from audiomdb_webdav.client import Folder, plain_url

__all__ = ["WebDAVUploader"]

_DIGEST = ".sha256"
"""Beside each file: the digest of its content, and the ETag it had when that was read back."""

_MADE, _DONE, _IS_THERE = 201, 204, 405


class WebDAVUploader(BaseUploader):
    """Uploads a dataset to a folder on a WebDAV server.

        WebDAVUploader(
            "https://cloud.example.org/remote.php/dav/files/me/speech", username="me", password=...
        ).upload_dir("speech")

    WebDAV servers know no digests. So each file is sent under another name, read back, compared,
    and only then given its own name; what was found is written beside it, together with the ETag,
    so that a second upload sends what has changed.

    Args:
        url: The folder, http or https. It is made where only itself is missing.
        username: Where the server asks for one.
        password: The same. Never part of an error.
        read_timeout_s: Seconds without an answer after which a connection counts as broken.
        workers: Files sent at once.
        progress: Show a progress bar on stderr; None: where that is a terminal.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str | None = None,
        password: str | None = None,
        read_timeout_s: float = 60.0,
        workers: int = 4,
        progress: bool | None = None,
    ) -> None:
        super().__init__(workers=workers, progress=progress)
        self._folder = Folder(
            url,
            credentials=None if username is None else (username, password or ""),
            connections=workers + 1,
            read_timeout_s=read_timeout_s,
            broken=UploadError,
        )
        self._made: set[str] = set()
        self._making = threading.Lock()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> WebDAVUploader:  # noqa: ANN401
        """To `webdavs://server/folder`, or `webdav://` for a server without encryption."""
        address, credentials = plain_url(url)
        return cls(address, **{**credentials, **options})

    def upload_file(self, full_path: str, rel_path: str) -> None:
        """Send one file, compare it, and give it its name."""
        parent, _, name = rel_path.rpartition("/")
        self._make_collections(parent)
        unfinished = f"{parent}/.{name}.part".lstrip("/")
        expected = self.sha256(full_path)
        with Path(full_path).open("rb") as file:
            # Else the body would be sent in chunks, of which some servers store nothing.
            length = str(os.fstat(file.fileno()).st_size)
            self._do("PUT", unfinished, body=file, headers={"Content-Length": length})
        found = self._read_back(unfinished)
        if found != expected:
            raise UploadError(
                f"{self.destination(rel_path)} arrived with sha256 {found} instead of {expected}; "
                "upload again"
            )
        target = self._folder.address(rel_path)
        self._do("MOVE", unfinished, headers={"Destination": target, "Overwrite": "T"})
        etag = self._etag(rel_path)
        if etag is not None:
            self._do("PUT", rel_path + _DIGEST, body=f"{expected} {etag}\n".encode())

    def stat(self, rel_path: str) -> tuple[int, str | None] | None:
        """Size of a file, and its sha256 unless it was changed since it was read back."""
        with closing(self._folder.ask("HEAD", rel_path)) as answer:
            if answer.status == 404:
                return None
            # A folder has no length.
            if answer.status != 200 or "Content-Length" not in answer.headers:
                raise answer.error(UploadError)
            size, etag = int(answer.headers["Content-Length"]), answer.headers.get("ETag")
        with closing(self._folder.ask("GET", rel_path + _DIGEST)) as answer:
            note = b"".join(answer).decode("ascii", "replace") if answer.status == 200 else ""
        digest, _, noted = note.strip().partition(" ")
        return size, digest if etag is not None and noted == etag else None

    def remove(self, rel_path: str) -> None:
        """Delete a file. What is noted beside it is of no use without it."""
        with closing(self._folder.ask("DELETE", rel_path)) as answer:
            for _ in answer:
                pass
            if answer.status not in (200, _DONE, 404):
                raise answer.error(UploadError)

    def destination(self, rel_path: str) -> str:
        """URL of a file."""
        return self._folder.where(rel_path)

    def _make_collections(self, parent: str) -> None:
        """Make the dataset's folder, and one in it."""
        with self._making:
            for path in ("", f"{parent}/".lstrip("/")):
                if path not in self._made:
                    with closing(self._folder.ask("MKCOL", path)) as answer:
                        if answer.status not in (_MADE, _IS_THERE):
                            raise answer.error(UploadError)
                    self._made.add(path)

    def _read_back(self, path: str) -> str:
        digest = hashlib.sha256()
        with closing(self._folder.ask("GET", path)) as answer:
            if answer.status != 200:
                raise answer.error(UploadError)
            for chunk in answer:
                digest.update(chunk)
        return digest.hexdigest()

    def _etag(self, path: str) -> str | None:
        with closing(self._folder.ask("HEAD", path)) as answer:
            return answer.headers.get("ETag") if answer.status == 200 else None

    def _do(self, method: str, path: str, **request: Any) -> None:  # noqa: ANN401
        """Have something done, and read what the server says to it."""
        with closing(self._folder.ask(method, path, **request)) as answer:
            for _ in answer:
                pass  # so that the connection can be used again
            if answer.status not in (200, _MADE, _DONE):
                raise answer.error(UploadError)
