"""What the source gave for a shard, summed up, so that a later run sees whether it still does."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from struct import Struct
from typing import Any, NamedTuple

import msgspec
from msgspec.msgpack import Ext

from audiomdb.audio.window import AudioWindow
from audiomdb.errors import UnsupportedValueError
from audiomdb.sample import AUDIO
from audiomdb.shards.checksum import crc32
from audiomdb.shards.describe import file_bytes, value_bytes
from audiomdb.shards.layout import INLINE_BYTES
from audiomdb.shards.packing import PAYLOAD_BYTES, REF, Buffer, Packer

__all__ = ["Contents", "SourceDigest", "contents"]

_FILE, _OTHER = 5, 6
"""Extension types beside those of a record: a file, and what has no stored form."""

_SIZE = Struct("<Q")
_WINDOW = Struct("<Qdd")

_NUMBERS = frozenset((bool, float, int, type(None)))
_TEXT = {str}
_HASHED_AT_ONCE = 64 * 1024

_encode = msgspec.msgpack.Encoder().encode


class Contents(NamedTuple):
    """What a source sample holds.

    Attributes:
        size: Bytes as the source gave it, which is what shard borders count.
        fields: Its values as the digest takes them.
    """

    size: int
    fields: dict[Any, Any]


def contents(sample: object) -> Contents:
    """Look into a source sample, whatever it is.

    Its size is that of its texts, in code points, and of its byte strings and arrays. A path counts
    as its file's size, 0 when the file is missing (reading it says so later). A window counts 32 kB
    a second, or as its whole file where it has no end.
    """
    if not isinstance(sample, Mapping):
        return Contents(0, {})  # refused where samples are prepared
    size = 0
    fields: dict[Any, Any] = {}
    for field, value in sample.items():
        # Each sample of each run comes by here, in one thread: the usual ones are spelled out.
        kind = type(value)
        if kind in _NUMBERS:
            fields[field] = value
        elif kind is str and field != AUDIO:
            size += len(value)
            fields[field] = value
        elif kind is bytes and len(value) > INLINE_BYTES:
            size += len(value)
            fields[field] = Ext(PAYLOAD_BYTES, REF.pack(0, len(value), crc32(value)))
        elif field == AUDIO and isinstance(value, str | os.PathLike):
            of_file = file_bytes(value)
            size += of_file
            fields[field] = Ext(_FILE, _SIZE.pack(of_file))
        else:
            size += value_bytes(value)
            fields[field] = _PACKER.pack(value, "", 1)
    return Contents(size, fields)


class SourceDigest:
    """Sums up the source samples of one shard, in order.

    All values count, audio in memory by its checksum. Of files on disk the size counts, for their
    content would have to be read, and their names do not: the same files may lie elsewhere.
    docs/format.md says which bytes are hashed; they are the same in every process.
    """

    def __init__(self) -> None:
        import hashlib

        self._hash = hashlib.sha256()
        self._waiting = bytearray()
        self.samples = 0
        self.bytes = 0

    def add(self, key: object, found: Contents) -> None:
        """Count one source sample, of this key and with these contents."""
        self._waiting += _encoded(key, found)
        if len(self._waiting) > _HASHED_AT_ONCE:
            self._hash.update(self._waiting)
            self._waiting.clear()
        self.samples += 1
        self.bytes += found.size

    def hexdigest(self) -> str:
        """Hex digest over all that was added."""
        self._hash.update(self._waiting)
        self._waiting.clear()
        return self._hash.hexdigest()


class _Packer(Packer):
    """Packs like a record, but keeps no payloads and refuses nothing. Has no state."""

    def name(self, field: object, path: str) -> Any:  # noqa: ANN401
        return super().name(field, path) if isinstance(field, str) else _type_name(field)

    def pack(self, value: Any, path: str, depth: int) -> Any:  # noqa: ANN401
        if isinstance(value, AudioWindow):
            end = math.inf if value.duration is None else value.duration
            return Ext(_FILE, _WINDOW.pack(file_bytes(value.path), value.offset, end))
        try:
            return super().pack(value, path, depth)
        except UnsupportedValueError:
            # The sample may be rejected, or a processor may take the value. What such a thing holds
            # is not known to be the same in another process.
            return Ext(_OTHER, _type_name(value))

    def _payload(self, data: Buffer) -> bytes:
        return REF.pack(0, len(data), crc32(data))


_PACKER = _Packer("")


def _encoded(key: object, found: Contents) -> bytes:
    if {type(key), *map(type, found.fields)} == _TEXT:
        with contextlib.suppress(OverflowError, UnicodeEncodeError):
            return _encode((key, found.size, found.fields))
    return _encode((_plain(key), found.size, _plain(found.fields)))


def _plain(value: Any) -> Any:  # noqa: ANN401
    """A value as MessagePack takes it where it does not take it as it is.

    Text without a UTF-8 form, which names of files may have, becomes a byte string. An integer of
    more than 64 bits and a name that is no text count by their type.
    """
    if isinstance(value, str):
        text = str.__str__(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            return text.encode("utf-8", "surrogatepass")
        return text
    if isinstance(value, dict):
        return {
            _plain(name if isinstance(name, str) else _type_name(name)): _plain(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if type(value) is int and not -(2**63) <= value < 2**64:
        return Ext(_OTHER, _type_name(value))
    return value if type(value) in _NUMBERS or isinstance(value, bytes | Ext) else _type_name(value)


def _type_name(value: object) -> bytes:
    return type(value).__qualname__.encode("utf-8", "surrogatepass")
