"""Stream a file through the session of `huggingface_hub`, with any of its HTTP libraries.

`huggingface_hub` used requests before its release 1.0, then httpx, then httpx2. requests and the
httpx family differ in how a streamed request is made and how its body is read. Everything else that
is used here has the same name in both.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from audiomdb.lazy import importing

__all__ = ["Answer", "asked_to_wait_s", "get"]

_CHUNK_BYTES = 16 * 1024
"""Chunk size for requests, which loses a partial chunk when a connection breaks; httpx does not."""

_MOST_DIGITS = 18
"""Of a number of bytes. Python converts no text of more than 4300 digits, and a file with a number
of 19 digits has no end."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)")
_USED_UP = re.compile(r"\br=0\s*;\s*t=(\d+)")


def get(
    url: str,
    *,
    start: int,
    stop: int | None,
    token: str | bool | None,
    timeout_s: float | None,
    version: str | None = None,
) -> Answer:
    """Request a file, following redirects; its body is read by iterating over the answer.

    If a redirect leads to another host, both libraries drop the token and keep the range.

    Args:
        url: URL of the file.
        start: First byte to request.
        stop: Byte to stop before; None: to the end of the file.
        token: Token, as the Hub's client takes it.
        timeout_s: Seconds without a byte after which the connection counts as broken; None: the
            default of the Hub's client.
        version: Version of the file, if the URL leads to this version only.
    """
    from huggingface_hub import constants

    session = _session()  # first: the client may use it for the headers
    headers = _client().build_hf_headers(token=token, user_agent="audiomdb")
    # Ranges refer to the uncompressed file. Stores that would compress it ignore them.
    headers["Accept-Encoding"] = "identity"
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    timeout_s = timeout_s or constants.HF_HUB_DOWNLOAD_TIMEOUT
    if hasattr(session, "build_request"):
        request = session.build_request("GET", url, headers=headers, timeout=timeout_s)
        return Answer(session.send(request, stream=True, follow_redirects=True), version)
    return Answer(session.get(url, headers=headers, timeout=timeout_s, stream=True), version)


class Answer:
    """The response to a request for a file, after all redirects, with its body not yet read.

    Large files are kept in a separate store that the Hub redirects to. The headers of the Hub's own
    response describe the file; those of the store may differ or be missing.
    """

    def __init__(self, response: Any, version: str | None = None) -> None:  # noqa: ANN401
        self._response = response
        self._hops = [*response.history, response]
        self._version = version

    @property
    def status(self) -> int:
        """HTTP status code."""
        return int(self._response.status_code)

    @property
    def commit(self) -> str | None:
        """The commit that the file belongs to; None if no server states it."""
        return self._said("X-Repo-Commit")

    @property
    def version(self) -> str | None:
        """Identifier of the content: the SHA-256 of large files, or else the Git blob id."""
        etag = self._version or self._said("X-Linked-ETag") or self._said("ETag")
        return etag.removeprefix("W/").strip('"') if etag else None

    @property
    def link(self) -> str | None:
        """The URL of the content that the Hub redirected to, which is valid for a limited time.

        None if the Hub holds the file itself.
        """
        asked, answered = (urlsplit(str(self._hops[at].url)) for at in (0, -1))
        return None if asked.netloc == answered.netloc else answered.geturl()

    @property
    def span(self) -> tuple[int, int | None] | None:
        """Position of the first byte sent, and size of the whole file in bytes, if known.

        None if the answer is partial and does not state its range.
        """
        headers = self._response.headers
        if self.status == 206:
            match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
            if match is None:
                return None
            first, size = match.groups()
            return int(first), None if size == "*" else int(size)
        return 0, self._length

    def raise_for_status(self) -> None:
        """Raise the error of the Hub's client for this answer, unless it was successful."""
        _client().hf_raise_for_status(self._response)

    def wait_s(self) -> float | None:
        """Return the seconds that the server asks to wait before the next request, if any."""
        return asked_to_wait_s(self._response.headers, time.time())

    def __iter__(self) -> Iterator[bytes]:
        read: Any = getattr(self._response, "iter_bytes", None)
        chunks = iter(read() if read else self._response.iter_content(_CHUNK_BYTES))
        left = self._length
        for chunk in chunks:
            if left is not None:
                left -= len(chunk)
                if left == 0:
                    # Readers stop here, but the connection is reused only after reading the end.
                    next(chunks, None)
            yield chunk

    def close(self) -> None:
        """Close the response, and release its connection."""
        self._response.close()

    @property
    def _length(self) -> int | None:
        """Size of the body in bytes; None if it is encoded, or the server does not state it."""
        headers = self._response.headers
        if headers.get("Content-Encoding", "identity") != "identity":
            return None
        length = headers.get("Content-Length", "")
        return int(length) if length.isdecimal() and len(length) <= _MOST_DIGITS else None

    def _said(self, header: str) -> str | None:
        """Return a header from the first response in the chain of redirects that has it."""
        values = (hop.headers.get(header) for hop in self._hops)
        return next((str(value) for value in values if value), None)


def asked_to_wait_s(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a response asks to wait; None if it does not ask.

    The Hub counts requests in windows of five minutes, and states in the `RateLimit` header (an
    IETF draft) when the next window begins; other servers use `Retry-After`, with seconds or a
    date.

    Args:
        headers: Headers of the response.
        now: Current time in seconds since the Unix epoch.
    """
    used_up = _USED_UP.search(headers.get("RateLimit") or "")
    if used_up:
        return float(used_up[1])
    asked = (headers.get("Retry-After") or "").strip()
    if asked.isdecimal():
        return float(asked)
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _session() -> Any:  # noqa: ANN401
    # The client makes it under a lock, which a fork in another thread would leave locked.
    with importing():
        return _client().get_session()


def _client() -> Any:  # noqa: ANN401
    """Return the module that has the functions of the client in every release."""
    from huggingface_hub import utils

    return utils
