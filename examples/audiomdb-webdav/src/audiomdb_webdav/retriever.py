"""Reading datasets from a WebDAV server."""

from __future__ import annotations

import os
import re
from typing import Any

from audiomdb.errors import DatasetNotFoundError, DownloadError, DownloadInterruptedError
from audiomdb.retrievers.base import BaseRetriever, RemoteFile
from audiomdb_webdav.client import Answer, Folder, plain_url

__all__ = ["WebDAVRetriever"]

_AGAIN = (408, 425, 429)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)")


class WebDAVRetriever(BaseRetriever):
    """Reads a dataset in a folder on a WebDAV server, through a cache on a local disk.

        retriever = WebDAVRetriever(
            "https://cloud.example.org/remote.php/dav/files/me/speech",
            username="me", password=password, max_cache_bytes=50 * 1024**3,
        )

    A download that breaks off goes on from its last byte, as long as the server says that the file
    is the same (its ETag).

    Args:
        url: The folder, http or https.
        username: Where the server asks for one.
        password: The same. Never part of an error or of a file's name.
        read_timeout_s: Seconds without a byte after which a connection counts as broken.
        cache_dir: Directory for caches, see `BaseRetriever`.
        max_cache_bytes: Limit of this dataset's cache.
        prefetch: Shards to download ahead of a stream.
        workers: Downloads at once, over all processes of the machine.
    """

    # The cache is not named by them: with a new password, the old one is found.
    access_options = frozenset({"password", "read_timeout_s", "username"})

    def __init__(
        self,
        url: str,
        *,
        username: str | None = None,
        password: str | None = None,
        read_timeout_s: float = 20.0,
        cache_dir: str | os.PathLike[str] | None = None,
        max_cache_bytes: int | None = None,
        prefetch: int = 4,
        workers: int = 4,
    ) -> None:
        super().__init__(
            cache_dir=cache_dir,
            max_cache_bytes=max_cache_bytes,
            prefetch=prefetch,
            workers=workers,
        )
        self._folder = Folder(
            url,
            credentials=None if username is None else (username, password or ""),
            connections=workers + 1,
            read_timeout_s=read_timeout_s,
            broken=DownloadInterruptedError,
        )

    @classmethod
    def from_url(cls, url: str, **options: Any) -> WebDAVRetriever:  # noqa: ANN401
        """Of `webdavs://server/folder`, or `webdav://` for a server without encryption."""
        address, credentials = plain_url(url)
        return cls(address, **{**credentials, **options})

    def open_remote(self, path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:
        """Open a file from some byte on; from byte 0 if it is another than it was."""
        headers = {"Accept-Encoding": "identity"}
        if start and validator is not None:
            headers |= {"Range": f"bytes={start}-", "If-Range": validator}
        answer = self._folder.ask("GET", path, headers=headers)
        span = _span(answer)
        if span is None:
            answer.close()
            if "Range" in headers and answer.status in (206, 416):
                return self.open_remote(path)  # it has become shorter, or the part is not named
            raise answer.error(_kind(answer.status))
        begin, size = span
        return RemoteFile(answer, begin, _validator(answer), size)

    def close(self) -> None:
        """Let go of the dataset and of all connections."""
        super().close()
        self._folder.close()

    def __repr__(self) -> str:
        return f"WebDAVRetriever({self._folder.url!r})"


def _span(answer: Answer) -> tuple[int, int | None] | None:
    """Where an answer begins in the file, and how long the file is; None where it does not say."""
    if answer.status == 200:
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    # "bytes 100-199/200", or "/*" where the server does not know.
    said = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status != 206 or said is None:
        return None
    return int(said[1]), None if said[2] == "*" else int(said[2])


def _validator(answer: Answer) -> str | None:
    """The file's ETag. A weak one does not promise the same bytes, so it is none."""
    etag = answer.headers.get("ETag")
    return None if etag is None or etag.startswith("W/") else etag


def _kind(status: int) -> type[DownloadError | DatasetNotFoundError]:
    if status == 404:
        return DatasetNotFoundError
    return DownloadInterruptedError if status >= 500 or status in _AGAIN else DownloadError
