"""Define `RemoteFile`, a store's answer to a request for a file."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

__all__ = ["RemoteFile"]


class RemoteFile(msgspec.Struct, frozen=True):
    """A store's answer to a request for a file, from some byte on.

    Attributes:
        chunks: The bytes. Closed after use, if it has a `close` method.
        start: Offset of the first byte in the file: the byte asked for, or 0 from a store that
            ignores ranges or has another version of the file than the validator names.
        validator: Name of the version of the file (an ETag), to be sent back when resuming.
        size: Size of the whole file in bytes, if the store reports it.
    """

    chunks: Iterable[bytes]
    start: int = 0
    validator: str | None = None
    size: int | None = None
