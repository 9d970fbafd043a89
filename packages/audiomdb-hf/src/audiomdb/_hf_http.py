"""Streaming a file through the Hub's own client, whatever HTTP library that stands on.

`huggingface_hub` stood on requests before its release 1.0, then on httpx, then on httpx2. The two
kinds differ in how a streamed request is made and how its body is read. All else that is used here
goes by the same names.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Answer", "asked_to_wait_s", "get"]

_CHUNK_BYTES = 16 * 1024
"""Of requests, which loses what it has of a chunk when a connection breaks; httpx does not."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
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
    """Ask for a file, following redirects; its body is read when the answer is iterated over.

    Both libraries drop the token where a redirect leads to another host, and keep the range.

    Args:
        url: Of the file.
        start: First byte wanted.
        stop: First byte that is not; None: all to the end.
        token: As the Hub's client takes it.
        timeout_s: Seconds without a byte after which the connection counts as broken; None: as the
            Hub's client has it.
        version: Of the file, where the URL leads to this one alone.
    """
    from huggingface_hub import constants

    headers = _client().build_hf_headers(token=token, user_agent="audiomdb")
    # Ranges are of the file itself. Stores that would compress it ignore them.
    headers["Accept-Encoding"] = "identity"
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    timeout_s = timeout_s or constants.HF_HUB_DOWNLOAD_TIMEOUT
    session = _client().get_session()
    if hasattr(session, "build_request"):
        request = session.build_request("GET", url, headers=headers, timeout=timeout_s)
        return Answer(session.send(request, stream=True, follow_redirects=True), version)
    return Answer(session.get(url, headers=headers, timeout=timeout_s, stream=True), version)


class Answer:
    """An answer to a request for a file, at the end of its redirects; its body is still to come.

    Large files lie in a store of their own, which the Hub redirects to. What the Hub says of a file
    is said on the way there: the store may say something else of it, or nothing.
    """

    def __init__(self, response: Any, version: str | None = None) -> None:  # noqa: ANN401
        self._response = response
        self._hops = [*response.history, response]
        self._version = version

    @property
    def status(self) -> int:
        """HTTP status."""
        return int(self._response.status_code)

    @property
    def commit(self) -> str | None:
        """The commit that the file is of."""
        return self._said("X-Repo-Commit")

    @property
    def version(self) -> str | None:
        """What names the content: its sha256 for large files, else git's name for it."""
        etag = self._version or self._said("X-Linked-ETag") or self._said("ETag")
        return etag.removeprefix("W/").strip('"') if etag else None

    @property
    def link(self) -> str | None:
        """Where the Hub redirected to: a URL of the content alone that is good for a while.

        None where the Hub has the file itself.
        """
        asked, answered = (urlsplit(str(self._hops[at].url)) for at in (0, -1))
        return None if asked.netloc == answered.netloc else answered.geturl()

    @property
    def span(self) -> tuple[int, int | None] | None:
        """First byte that is sent, and bytes of the whole file; None where one cannot tell."""
        headers = self._response.headers
        if self.status == 206:
            match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
            if match is None:
                return None
            first, size = match.groups()
            return int(first), None if size == "*" else int(size)
        return 0, self._length

    def raise_for_status(self) -> None:
        """Raise what the Hub's client raises for an answer like this; nothing for good ones."""
        _client().hf_raise_for_status(self._response)

    def wait_s(self) -> float | None:
        """Seconds that the server asks to wait before the next request."""
        return asked_to_wait_s(self._response.headers, time.time())

    def __iter__(self) -> Iterator[bytes]:
        read: Any = getattr(self._response, "iter_bytes", None)
        chunks = iter(read() if read else self._response.iter_content(_CHUNK_BYTES))
        left = self._length
        for chunk in chunks:
            if left is not None:
                left -= len(chunk)
                if left == 0:
                    # Readers stop here. The connection is used again only if its end was seen.
                    next(chunks, None)
            yield chunk

    def close(self) -> None:
        """Let go of the connection."""
        self._response.close()

    @property
    def _length(self) -> int | None:
        """Bytes of the body; None where it is encoded, or the server does not say."""
        headers = self._response.headers
        if headers.get("Content-Encoding", "identity") != "identity":
            return None
        length = headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None

    def _said(self, header: str) -> str | None:
        """A header of the first server on the way that has it."""
        values = (hop.headers.get(header) for hop in self._hops)
        return next((str(value) for value in values if value), None)


def asked_to_wait_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that an answer asks to wait; None where it asks for nothing.

    The Hub counts requests in windows of five minutes, and says in the `RateLimit` header when the
    next one begins (an IETF draft); others say it in `Retry-After`, in seconds or as a date.

    Args:
        headers: Of the answer.
        now: Seconds since the epoch.
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
    except ValueError:
        return None


def _client() -> Any:  # noqa: ANN401
    """Where every release has the functions that its client is made of."""
    from huggingface_hub import utils

    return utils
