"""What reading and writing share: requests to a folder on a server, and errors that say what to do.

This is the only place that knows urllib3, and the only one that meets its exceptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit

import urllib3

from audiomdb.errors import AudioMDBError, InvalidURLError
from audiomdb.urls import without_password

__all__ = ["Answer", "Folder", "plain_url"]

_CONNECT_TIMEOUT_S = 10.0
_CHUNK_BYTES = 256 * 1024

_ADVICE = {
    401: "the server wants other credentials: username= and password=",
    403: "these credentials may not do that",
    404: "there is no such file or folder",
    405: "the server does not take this request there; is it a WebDAV server?",
    409: "the folder above does not exist",
    507: "the server's disk is full",
}


def plain_url(url: str) -> tuple[str, dict[str, str]]:
    """The HTTP address that a `webdav://` or `webdavs://` URL stands for, and its credentials.

        >>> plain_url("webdavs://me:secret@cloud.example.org/dav/speech")
        ('https://cloud.example.org/dav/speech', {'username': 'me', 'password': 'secret'})

    Raises:
        InvalidURLError: it names no server.
    """
    parts = urlsplit(url)
    scheme = {"webdav": "http", "webdavs": "https"}.get(parts.scheme)
    if scheme is None or not parts.hostname:
        shown = without_password(url)
        raise InvalidURLError(f"{shown!r} names no server, expected webdavs://server/folder")
    _, _, server = parts.netloc.rpartition("@")
    credentials = {"username": parts.username, "password": parts.password}
    given = {name: unquote(value) for name, value in credentials.items() if value is not None}
    # Without the last slash, which would name another cache.
    return f"{scheme}://{server}{unquote(parts.path)}".rstrip("/"), given


class Answer:
    """A server's answer, whose bytes are still to come.

    Attributes:
        status: Such as 206.
        headers: By name, in any case.
    """

    def __init__(self, folder: Folder, doing: str, response: urllib3.BaseHTTPResponse) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._folder = folder
        self._doing = doing
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with self._folder.errors(self._doing):
            yield from self._response.stream(_CHUNK_BYTES, decode_content=False)

    def error(self, kind: type[AudioMDBError]) -> AudioMDBError:
        """An error of this kind that says what the server answered."""
        advice = _ADVICE.get(self.status, "try again later")
        if 300 <= self.status < 400:
            advice = f"give the address that it refers to: {self.headers.get('Location')}"
        return kind(f"cannot {self._doing}: the server answers {self.status} ({advice})")

    def close(self) -> None:
        """Keep the connection for another request if all was read, else end it."""
        if not self._response.closed:
            self._response.close()
        self._response.release_conn()


class Folder:
    """A folder on a server. Threads share it; a process makes its own.

    Args:
        url: Its address, http or https.
        credentials: Name and password; None where the server asks for none.
        connections: Kept open.
        read_timeout_s: Seconds without a byte after which a connection counts as broken.
        broken: Raised where the network fails.
    """

    def __init__(
        self,
        url: str,
        *,
        credentials: tuple[str, str] | None,
        connections: int,
        read_timeout_s: float,
        broken: type[AudioMDBError],
    ) -> None:
        self.url = url.rstrip("/")
        self._broken = broken
        auth = ":".join(credentials) if credentials else None
        self._pool = urllib3.PoolManager(
            maxsize=connections,
            headers=urllib3.make_headers(basic_auth=auth),
            timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT_S, read=read_timeout_s),
            retries=False,  # AudioMDB tries again itself, and knows what was received already
        )

    def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | IO[bytes] | None = None,
    ) -> Answer:
        """Send a request for a file of the folder; the answer is to be closed.

        Raises:
            AudioMDBError: the network failed. What the server refuses is not raised here.
        """
        where = self.where(path)
        doing = f"{method} {where}"
        fields: dict[str, Any] = {"body": body, "preload_content": False, "redirect": False}
        if headers is not None:
            fields["headers"] = {**self._pool.headers, **headers}
        with self.errors(doing):
            response = self._pool.request(method, self.address(path), **fields)
        return Answer(self, doing, response)

    def where(self, path: str) -> str:
        """What errors call a file."""
        return f"{self.url}/{path}".rstrip("/")

    def address(self, path: str) -> str:
        """URL of a file, or of a folder with "/" at its end, as a server wants it."""
        return quote(f"{self.url}/{path}", safe=":/@[]")

    def close(self) -> None:
        """End all connections; another request makes new ones."""
        self._pool.clear()

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Translate what urllib3 raises."""
        try:
            yield
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            said = " ".join(str(exc).split())
            raise self._broken(f"cannot {doing}: {said}") from exc
