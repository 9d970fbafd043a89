"""A store in memory: the smallest complete backend, to test against and to read as an example.

    with MemoryServer() as server:
        MemoryUploader(server.url("speech")).upload_dir("speech")
        retriever = MemoryRetriever(server.url("speech"), max_cache_bytes=10_000_000)

A server in a thread keeps files in a dict and serves them over HTTP, so that all processes of a
test see the same files, and a failing network (`FaultProxy`) can be put in between.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from audiomdb.errors import (
    AudioMDBError,
    DatasetNotFoundError,
    DownloadError,
    DownloadInterruptedError,
    UploadError,
)
from audiomdb.retrievers.base import BaseRetriever, RemoteFile
from audiomdb.shards.files import sha256_hex
from audiomdb.testing.store import Store
from audiomdb.uploaders.base import BaseUploader

__all__ = ["MemoryRetriever", "MemoryServer", "MemoryStore", "MemoryUploader"]

_CHUNK_BYTES = 256 * 1024
_SHA256 = "X-Sha256"


class MemoryServer:
    """Serves files from memory over HTTP: GET with Range and If-Match, HEAD, PUT, DELETE.

    Listens on a free port of 127.0.0.1 from construction until `close`.

    Attributes:
        files: Content by path. May be changed at any time; a value is replaced, never mutated.
        requests: Method and path of every request so far.
        address: Host and port.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        memory = self

        class Handler(_Handler):
            server_memory = memory

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address: tuple[str, int] = ("127.0.0.1", self._server.server_port)
        # Polls more often than by default, so that `close` returns soon.
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="memory-server", daemon=True
        )
        self._thread.start()

    def url(self, name: str = "") -> str:
        """Return the URL of the dataset with this name, which may hold any character."""
        return f"http://{self.address[0]}:{self.address[1]}/{quote(name)}".rstrip("/")

    def close(self) -> None:
        """Stop the server. May be called twice."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> MemoryServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_memory: MemoryServer
    disable_nagle_algorithm = True

    def log_message(self, *_args: Any) -> None:  # noqa: ANN401
        """Log nothing: requests are recorded in the server's list instead."""

    def handle(self) -> None:
        # A client that disconnects is not worth a traceback.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        content = self._find()
        if content is None:
            return
        etag = sha256_hex(content)
        wanted = self.headers.get("If-Match")
        if wanted is not None and wanted.strip('"') != etag:
            self._answer(HTTPStatus.PRECONDITION_FAILED)
            return
        start, whole = 0, len(content)
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(found[1])
            if start >= whole:
                self._answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
        status = HTTPStatus.PARTIAL_CONTENT if found else HTTPStatus.OK
        span = {"Content-Range": f"bytes {start}-{whole - 1}/{whole}"} if found else {}
        self._answer(status, content[start:], ETag=f'"{etag}"', **span)

    def do_HEAD(self) -> None:
        content = self._find()
        if content is not None:
            # The digest of what is stored, not what the client said it would send.
            self._answer(HTTPStatus.OK, content, **{_SHA256: sha256_hex(content)})

    def do_PUT(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(size)
        self._note()
        if len(content) < size:
            self.close_connection = True  # the upload broke off: the previous content stays
            return
        self.server_memory.files[self._file] = content
        self._answer(HTTPStatus.CREATED)

    def do_DELETE(self) -> None:
        if self._find() is not None:
            self.server_memory.files.pop(self._file, None)
            self._answer(HTTPStatus.NO_CONTENT)

    @property
    def _file(self) -> str:
        return unquote(self.path).strip("/")

    def _note(self) -> None:
        self.server_memory.requests.append((self.command, self._file))

    def _find(self) -> bytes | None:
        self._note()
        content = self.server_memory.files.get(self._file)
        if content is None:
            self._answer(HTTPStatus.NOT_FOUND)
        return content

    def _answer(self, status: HTTPStatus, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class MemoryStore(Store):
    """The place of one dataset on a `MemoryServer`."""

    def __init__(self, server: MemoryServer, name: str) -> None:
        self.endpoint = server.url()
        self.name = name
        self._files = server.files

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, or None if there is none."""
        return self._files.get(f"{self.name}/{path}")

    def write(self, path: str, content: bytes) -> None:
        """Create or replace a file."""
        self._files[f"{self.name}/{path}"] = content

    def delete(self, path: str) -> None:
        """Delete a file."""
        del self._files[f"{self.name}/{path}"]


class MemoryRetriever(BaseRetriever):
    """Reads a dataset from a `MemoryServer`.

    Args:
        url: URL of the dataset, from `MemoryServer.url`.
        timeout_s: Seconds without a byte after which a connection counts as broken.
        options: Options of `BaseRetriever`.
    """

    def __init__(self, url: str, *, timeout_s: float = 10.0, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self._url = url
        self._timeout_s = timeout_s

    def open_remote(self, path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:
        """Open a file at byte `start`, or at byte 0 if its version is not `validator` any more."""
        answer = None
        if start and validator is not None:
            answer = self._get(path, {"Range": f"bytes={start}-", "If-Match": validator})
        if answer is None:
            answer = self._get(path, {})
        if answer is None:
            raise DatasetNotFoundError(f"no {self._url}/{path}")
        # "bytes 100-199/200"; a server that ignores ranges does not say so, and begins at 0.
        span = answer.header("Content-Range").removeprefix("bytes ")
        begin = int(span.partition("-")[0]) if span else 0
        return RemoteFile(answer, begin, answer.header("ETag"), begin + answer.size)

    def _get(self, path: str, headers: dict[str, str]) -> _Answer | None:
        """Request a file; return None if it does not exist or is not the requested version."""
        answer = _Answer("GET", f"{self._url}/{path}", self._timeout_s, DownloadInterruptedError)
        status = answer.ask(headers=headers)
        if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            return answer
        answer.close()
        if status in (404, 412, 416):
            return None
        again = status >= 500 or status == HTTPStatus.TOO_MANY_REQUESTS
        kind = DownloadInterruptedError if again else DownloadError
        raise kind(f"cannot read {self._url}/{path}: the server answers {status}")


class MemoryUploader(BaseUploader):
    """Uploads a dataset to a `MemoryServer`.

    Args:
        url: URL of the dataset, from `MemoryServer.url`.
        timeout_s: Seconds without a byte after which a connection counts as broken.
        options: Options of `BaseUploader`.
    """

    def __init__(self, url: str, *, timeout_s: float = 10.0, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self._url = url
        self._timeout_s = timeout_s

    def upload_file(self, full_path: str, rel_path: str) -> None:
        """Send one file."""
        answer = self._ask("PUT", rel_path)
        with contextlib.closing(answer):
            status = answer.ask(body=Path(full_path).read_bytes())
        if status != HTTPStatus.CREATED:
            raise UploadError(
                f"cannot write {self.destination(rel_path)}: the server answers {status}"
            )

    def stat(self, rel_path: str) -> tuple[int, str | None] | None:
        """Return size and sha256 of a file on the server, or None if there is none."""
        answer = self._ask("HEAD", rel_path)
        with contextlib.closing(answer):
            status = answer.ask()
        if status == HTTPStatus.NOT_FOUND:
            return None
        if status != HTTPStatus.OK:
            raise UploadError(
                f"cannot look at {self.destination(rel_path)}: the server answers {status}"
            )
        return answer.size, answer.header(_SHA256)

    def read(self, rel_path: str) -> bytes | None:
        """Return the content of a file on the server, or None if there is none."""
        answer = self._ask("GET", rel_path)
        with contextlib.closing(answer):
            status = answer.ask()
            if status == HTTPStatus.NOT_FOUND:
                return None
            if status == HTTPStatus.OK:
                return b"".join(answer)
        raise UploadError(f"cannot read {self.destination(rel_path)}: the server answers {status}")

    def remove(self, rel_path: str) -> None:
        """Delete a file on the server, if it exists."""
        answer = self._ask("DELETE", rel_path)
        with contextlib.closing(answer):
            status = answer.ask()
        if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND):
            raise UploadError(
                f"cannot delete {self.destination(rel_path)}: the server answers {status}"
            )

    def destination(self, rel_path: str) -> str:
        """Return the URL of a file."""
        return f"{self._url}/{rel_path}"

    def _ask(self, method: str, rel_path: str) -> _Answer:
        return _Answer(method, self.destination(rel_path), self._timeout_s, UploadError)


class _Answer:
    """One request on a connection of its own, and the chunks of its response."""

    def __init__(self, method: str, url: str, timeout_s: float, kind: type[AudioMDBError]) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=timeout_s)
        self._request = (method, parts.path)
        self._doing = f"{method} {url}"
        self._kind = kind
        self._response: http.client.HTTPResponse | None = None

    def ask(self, *, body: bytes | None = None, headers: dict[str, str] | None = None) -> int:
        """Send the request, and return the status of the response."""
        try:
            with _translated(self._doing, self._kind):
                self._connection.request(*self._request, body, headers or {})
                self._response = self._connection.getresponse()
                return self._response.status
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Size of the body in bytes; after HEAD, of the body that GET would return."""
        return int(self.header("Content-Length") or 0)

    def header(self, name: str) -> str:
        """Return a header of the response, or an empty string if it has none."""
        return "" if self._response is None else self._response.getheader(name, "")

    def __iter__(self) -> Iterator[bytes]:
        assert self._response is not None, "asked first"
        came = 0
        with _translated(self._doing, self._kind):
            while chunk := self._response.read1(_CHUNK_BYTES):
                came += len(chunk)
                yield chunk
        if came < self.size:
            raise self._kind(f"{self._doing} broke off after {came} of {self.size} bytes")

    def close(self) -> None:
        """Close the connection, even if the response was not read to its end."""
        if self._response is not None:
            self._response.close()
        self._connection.close()


@contextlib.contextmanager
def _translated(doing: str, kind: type[AudioMDBError]) -> Iterator[None]:
    """Raise errors of the connection as an error of this kind."""
    try:
        yield
    except AudioMDBError:
        raise
    except (OSError, http.client.HTTPException) as exc:
        raise kind(f"cannot {doing}: {type(exc).__name__}: {exc}") from exc
