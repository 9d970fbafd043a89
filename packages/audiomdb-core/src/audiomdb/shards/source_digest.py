"""Digest the source samples of a shard, so that a later run can detect a changed source."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from struct import Struct
from typing import Any, NamedTuple

import msgspec
from msgspec.msgpack import Ext

from audiomdb.audio.source import is_about_the_file
from audiomdb.audio.window import AudioWindow
from audiomdb.errors import UnsupportedValueError
from audiomdb.sample import AUDIO
from audiomdb.shards.checksum import crc32
from audiomdb.shards.describe import disk_error
from audiomdb.shards.layout import INLINE_BYTES
from audiomdb.shards.packing import PAYLOAD_BYTES, REF, Buffer, Packer

__all__ = ["Contents", "SourceDigest", "contents"]

_FILE, _OTHER = 5, 6
"""Extension types besides those of a record: a file, and a value that cannot be stored."""

_SIZE = Struct("<Q")
_WINDOW = Struct("<Qdd")
_CHANNEL = Struct("<H")

_WINDOW_BYTES_PER_S = 32_000
"""Size of a window for shard borders: 16 bits at 16 kHz. Its file is not opened for that."""

_MOST_BYTES = 2**30
"""Maximum size of a window, 9 hours: a row may ask for far more seconds than its file has."""

_NUMBERS = frozenset((bool, float, int, type(None)))
_TEXT = {str}
_HASHED_AT_ONCE = 64 * 1024

_encode = msgspec.msgpack.Encoder().encode


class Contents(NamedTuple):
    """The size and field digests of a source sample.

    Attributes:
        size: Size in bytes as the source gave it, which determines shard borders.
        fields: Its values in the form in which they enter the digest.
    """

    size: int
    fields: dict[Any, Any]


def contents(sample: object) -> Contents:
    """Return the size and field digests of a source sample, which may be of any type.

    The size is the sum of its texts, in code points, and of its byte strings and arrays. A path
    counts as its file's size, 0 if the file is missing (reading it raises later). A window counts
    32 kB per second, or its whole file if it has no end.

    Raises:
        SourceError: when the size of a file is not known for a reason unrelated to the file.
    """
    if not isinstance(sample, Mapping):
        return Contents(0, {})  # rejected when samples are prepared
    size = 0
    fields: dict[Any, Any] = {}
    for field, value in sample.items():
        # Every sample of every run passes here, in one thread: the usual types are inlined.
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
            of_file = _file_bytes(value)
            size += of_file
            fields[field] = Ext(_FILE, _SIZE.pack(of_file))
        else:
            size += _value_bytes(value)
            fields[field] = _PACKER.pack(value, "", 1)
    return Contents(size, fields)


class SourceDigest:
    """A SHA-256 over the source samples of one shard, in order.

    All values are included, audio in memory by its checksum. Files on disk are included by their
    size, because hashing their contents would mean reading them, and not by their name, because the
    same files may be elsewhere later. docs/format.md specifies the hashed bytes; they are the same
    in every process.
    """

    def __init__(self) -> None:
        import hashlib

        self._hash = hashlib.sha256()
        self._waiting = bytearray()
        self.samples = 0
        self.bytes = 0

    def add(self, key: object, found: Contents) -> None:
        """Add one source sample, with its key and contents."""
        self._waiting += _encoded(key, found)
        if len(self._waiting) > _HASHED_AT_ONCE:
            self._hash.update(self._waiting)
            self._waiting.clear()
        self.samples += 1
        self.bytes += found.size

    def hexdigest(self) -> str:
        """Return the hex digest of all samples added so far."""
        self._hash.update(self._waiting)
        self._waiting.clear()
        return self._hash.hexdigest()


class _Packer(Packer):
    """Packs values as in a record, but keeps no payloads and rejects nothing. Stateless."""

    def name(self, field: object, path: str) -> Any:  # noqa: ANN401
        return super().name(field, path) if isinstance(field, str) else _type_name(field)

    def pack(self, value: Any, path: str, depth: int) -> Any:  # noqa: ANN401
        if isinstance(value, AudioWindow):
            end = math.inf if value.duration is None else value.duration
            packed = _WINDOW.pack(_file_bytes(value.path), value.offset, end)
            if value.channel is not None:
                packed += _CHANNEL.pack(value.channel)
            return Ext(_FILE, packed)
        try:
            return super().pack(value, path, depth)
        except UnsupportedValueError:
            # The sample may be rejected, or a processor may handle the value. Only its type is
            # used, because its contents may differ in another process.
            return Ext(_OTHER, _type_name(value))

    def _payload(self, data: Buffer) -> bytes:
        return REF.pack(0, len(data), crc32(data))


_PACKER = _Packer("")


def _value_bytes(value: Any) -> int:  # noqa: ANN401
    """Return the size of a field's value in the source; 0 if it is neither text nor a buffer."""
    if isinstance(value, AudioWindow):
        seconds = value.duration
        if seconds is None:
            return _file_bytes(value.path)
        return int(min(seconds * _WINDOW_BYTES_PER_S, _MOST_BYTES))
    if isinstance(value, bytes | bytearray | str):
        return len(value)
    if isinstance(value, memoryview) or hasattr(value, "__array__"):
        with contextlib.suppress(RuntimeError):  # of a sparse tensor, which is refused later
            return getattr(value, "nbytes", 0)
    return 0


def _file_bytes(path: str | os.PathLike[str]) -> int:
    """Return the size of a file in bytes; 0 if it is missing, which is reported when it is read.

    Raises:
        SourceError: when the size is not known for a reason unrelated to the file. With a wrong
            one, all later shards would have other borders.
    """
    try:
        return os.stat(path).st_size  # noqa: PTH116 (a Path costs more than the call)
    except ValueError:  # a name that no file can have
        return 0
    except OSError as exc:
        if is_about_the_file(exc):
            return 0
        raise disk_error(os.fspath(path), exc) from exc


def _encoded(key: object, found: Contents) -> bytes:
    if {type(key), *map(type, found.fields)} == _TEXT:
        with contextlib.suppress(OverflowError, UnicodeEncodeError):
            return _encode((key, found.size, found.fields))
    return _encode((_plain(key), found.size, _plain(found.fields)))


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Convert a value that MessagePack cannot encode to one that it can.

    Text without a UTF-8 form, as in file names, becomes a byte string. An integer of more than 64
    bits, or a field name that is not a str, is replaced by the name of its type.
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
