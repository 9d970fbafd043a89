"""What a store answers."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

__all__ = ["RemoteFile"]


class RemoteFile(msgspec.Struct, frozen=True):
    """An answer to a request for a file, from some byte on.

    Attributes:
        chunks: The bytes. Closed after use where it can be closed.
        start: Where in the file they begin: the byte asked for, or 0 from a store that ignores
            ranges or has another version of the file than the validator names.
        validator: What names the version of the file (an ETag), to be given back when resuming.
        size: Bytes of the whole file, where the store says so.
    """

    chunks: Iterable[bytes]
    start: int = 0
    validator: str | None = None
    size: int | None = None
