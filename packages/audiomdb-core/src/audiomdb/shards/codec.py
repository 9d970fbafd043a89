"""Encode samples as records and decode them: self-describing, without pickle.

A record has two parts. The *head* holds every small value: a MessagePack map preceded by a
checksum. The *payloads* (byte strings and arrays over `INLINE_BYTES`) are stored separately, so
that text and numbers are read without touching audio. docs/format.md specifies the bytes.

Values without a native MessagePack type are extension types:

    1  payload, bytes        where (u64), length (u64), crc32 (u32)
    2  payload, array        as 1, then a dtype header
    3  array in the head     dtype header, then the elements in C order
    4  NumPy scalar          as 3, with an empty shape

`where` counts from the start of the record's own payloads. A dtype header is its length (u16) and
a MessagePack list `[descr, shape]`, with `descr` as in NumPy's .npy files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import Any, NamedTuple, NoReturn, TypeAlias

import msgspec
import numpy as np

from audiomdb.errors import CorruptRecordError, InvalidKeyError, UnsupportedValueError
from audiomdb.sample import KEY, MAX_KEY_BYTES, Sample
from audiomdb.shards.checksum import crc32
from audiomdb.shards.dtypes import check_text, parse_dtype
from audiomdb.shards.packing import (
    INLINE_ARRAY,
    INLINE_SCALAR,
    PAYLOAD_ARRAY,
    PAYLOAD_BYTES,
    REF,
    Buffer,
    Packer,
)

__all__ = [
    "HEAD_PREFIX",
    "Damaged",
    "EncodedRecord",
    "Place",
    "RecordDecoder",
    "decode_head",
    "encode_key",
    "encode_record",
    "pack_head",
    "payload_span",
    "record_decoder",
    "resolve_fields",
]

HEAD_PREFIX = Struct("<III")
"""CRC-32 of everything after it, block number, offset of the payloads within the block."""

_PAYLOADS = frozenset({PAYLOAD_BYTES, PAYLOAD_ARRAY})

_PREFIX_BYTES = HEAD_PREFIX.size
_CRC_BYTES = 4
_REF_BYTES = REF.size
_read_crc = Struct("<I").unpack_from
_read_ref = REF.unpack_from
_MAX_VALUE_BYTES = 2**32 - 2**16

_encode = msgspec.msgpack.Encoder().encode
_decode_fields = msgspec.msgpack.Decoder(dict[str, Any]).decode
_Ext = msgspec.msgpack.Ext


Place: TypeAlias = tuple[int, int, int, int]
"""Location of a record: head offset, head size, payload offset and payload size."""

Damaged: TypeAlias = Callable[[int, Exception], Exception]
"""Makes the exception to raise, from the offset of the damaged head and the cause."""


class RecordDecoder(NamedTuple):
    """The two functions that `record_decoder` returns.

    Attributes:
        one: Decodes one record, given head offset, head size, the buffer that holds its payloads,
            their offset in that buffer and their size.
        several: Decodes records of `file` in turn, given their places.
    """

    one: Callable[[int, int, memoryview, int, int], Sample]
    several: Callable[[Iterable[Place], Damaged], Iterator[Sample]]


class EncodedRecord(msgspec.Struct, frozen=True):
    """A sample ready to be written.

    Attributes:
        key: UTF-8 of the key.
        body: The head's MessagePack map, without its prefix.
        payloads: Buffers to write consecutively, with padding so that each payload is aligned.
        payload_bytes: Their total size.
    """

    key: bytes
    body: bytes
    payloads: tuple[Buffer, ...]
    payload_bytes: int

    def __reduce__(self) -> tuple[Any, ...]:
        # For the way back from a worker process: Python cannot pickle memoryviews.
        payloads = tuple(bytes(p) if isinstance(p, memoryview) else p for p in self.payloads)
        return EncodedRecord, (self.key, self.body, payloads, self.payload_bytes)


def encode_key(key: object) -> bytes:
    """Encode a key as UTF-8.

    Raises:
        InvalidKeyError: unless `key` is a string of 1 to 511 bytes of UTF-8.
    """
    if not isinstance(key, str):
        raise InvalidKeyError(f"key {key!r} is {type(key).__name__}, expected str")
    try:
        raw = key.encode()
    except UnicodeEncodeError as exc:
        raise InvalidKeyError(f"key {key!r} has no UTF-8 form: {exc.reason}") from exc
    if not 0 < len(raw) <= MAX_KEY_BYTES:
        raise InvalidKeyError(
            f"key {key[:40]!r} takes {len(raw)} bytes, expected 1 to {MAX_KEY_BYTES}"
        )
    return raw


def encode_record(key: str, sample: Mapping[str, Any]) -> EncodedRecord:
    """Encode one sample; the record refers to the sample's buffers instead of copying them.

    Raises:
        InvalidKeyError: for a key that LMDB cannot hold, or a `__key__` field that differs from it.
        UnsupportedValueError: for a value that cannot be stored; names key and field.
    """
    raw_key = encode_key(key)
    own = sample.get(KEY, key)
    if not isinstance(own, str) or own != key:
        raise InvalidKeyError(f"sample {key!r} calls itself {own!r} in its field {KEY!r}")
    key = str.__str__(key)  # of a str subclass, such as NumPy's, the plain str
    packer = Packer(key)
    tree = {KEY: key}
    for field, value in sample.items():
        if field != KEY:
            tree[packer.name(field, "")] = packer.pack(value, field, 1)
    try:
        body = _encode(tree)
    except UnicodeEncodeError as exc:
        raise UnsupportedValueError(
            f"sample {key!r} holds text without a UTF-8 form (a lone surrogate): {exc.reason}"
        ) from exc
    if max(len(body), packer.size) > _MAX_VALUE_BYTES:
        raise UnsupportedValueError(
            f"sample {key!r} takes {max(len(body), packer.size)} bytes, LMDB's limit is "
            f"{_MAX_VALUE_BYTES}: cut it into several samples"
        )
    return EncodedRecord(raw_key, body, tuple(packer.payloads), packer.size)


def pack_head(body: bytes, block: int, offset: int) -> bytes:
    """Build the head as stored in the file: the prefix, with its checksum, and the body."""
    tail = HEAD_PREFIX.pack(0, block, offset)[4:] + body
    return crc32(tail).to_bytes(4, "little") + tail


def decode_head(head: memoryview) -> Sample:
    """Check the checksum of a stored head and decode it, leaving payloads to `resolve_fields`.

    Raises:
        CorruptRecordError: does not name the record; the caller knows shard and key.
    """
    if len(head) < _PREFIX_BYTES or crc32(head[_CRC_BYTES:]) != _read_crc(head)[0]:
        _wrong_checksum()
    try:
        sample = _decode_fields(head[_PREFIX_BYTES:])
    except _UNDECODABLE as exc:
        raise _undecodable(exc) from exc
    if type(sample.get(KEY)) is not str:
        _no_key()
    return sample


def resolve_fields(
    sample: Sample, file: memoryview, start: int, size: int, copy: bool, verify: bool
) -> None:
    """Replace the extension values of a decoded map, in place, by the values they encode.

    Args:
        sample: A decoded map.
        file: Buffer that holds the payloads.
        start: Offset of the record's payloads in `file`; negative if `file` lacks the first bytes
            of them.
        size: Size of the record's payloads in bytes.
        copy: Return `bytes` and writable arrays; otherwise read-only views into `file`.
        verify: Check each payload's checksum.

    Raises:
        CorruptRecordError: when a payload is out of bounds, overlaps another, or fails its
            checksum, or when the map nests too many containers.
    """
    try:
        _resolve_map(sample, _Payloads(file, start, size, size, copy, verify))
    except RecursionError as exc:
        raise CorruptRecordError(f"head nests too many containers: {exc}") from exc


def payload_span(sample: Sample, size: int) -> tuple[int, int]:
    """Return the half-open range of a record's payload bytes that a decoded map refers to.

    This is the full range if the map has dicts or lists, which may hold references too, or if a
    reference is malformed.

    Args:
        sample: A decoded map, before `resolve_fields`.
        size: Size of the record's payloads in bytes.
    """
    first, end = size, 0
    for value in sample.values():
        kind = type(value)
        if kind is dict or kind is list:
            return 0, size
        if kind is _Ext and value.code in _PAYLOADS:
            if len(value.data) < REF.size:
                return 0, size
            where, length, _ = _read_ref(value.data)
            first, end = min(first, where), max(end, where + length)
    return (first, end) if first <= end <= size else (0, min(end, size))


def record_decoder(  # noqa: C901 (a function for each check would take a tenth of the time)
    file: memoryview, *, copy: bool, verify: bool
) -> RecordDecoder:
    """Make functions that decode whole records; each pair serves one thread at a time.

    They do the work of `decode_head` and `resolve_fields` in half the time, because payloads are
    resolved while the map is decoded instead of in a second pass.

    Args:
        file: Buffer that holds heads and payloads.
        copy: Return `bytes` and writable arrays; otherwise read-only views into `file`.
        verify: Check each payload's checksum.
    """
    # The state that `resolve` reads changes with every record. It is kept in closure variables,
    # because attribute look-ups would take a tenth of the total time.
    held, first, size, left = file, 0, 0, 0

    def resolve(code: int, data: memoryview) -> Any:  # noqa: ANN401
        nonlocal left
        if code == PAYLOAD_BYTES and len(data) == _REF_BYTES:
            # The hot path, inlined; anything unexpected is left to `_resolve_ext`.
            where, length, crc = _read_ref(data)
            if length <= left and where + length <= size:
                begin = first + where
                view = held[begin : begin + length]
                if len(view) == length and (not verify or crc32(view) == crc):
                    left -= length
                    return bytes(view) if copy else view
        payloads = _Payloads(held, first, size, left, copy, verify)
        value = _resolve_ext(code, data, payloads)
        left = payloads.left
        return value

    decode = msgspec.msgpack.Decoder(dict[str, Any], ext_hook=resolve).decode

    def one(at: int, length: int, held_by: memoryview, start: int, payload_bytes: int) -> Sample:
        nonlocal held, first, size, left
        held, first, size, left = held_by, start, payload_bytes, payload_bytes
        end = at + length
        try:
            if crc32(file[at + _CRC_BYTES : end]) != _read_crc(file, at)[0]:
                _wrong_checksum()
            sample = decode(file[at + _PREFIX_BYTES : end])
            if type(sample.get(KEY)) is not str:
                _no_key()
        except _UNDECODABLE as exc:
            raise _undecodable(exc) from exc
        else:
            return sample
        finally:
            held = file  # otherwise a payload that was read apart would stay in memory

    def several(places: Iterable[Place], damaged: Damaged) -> Iterator[Sample]:
        nonlocal first, size, left
        at = 0
        try:
            for at, length, first, size in places:  # noqa: B007 (`resolve` uses them)
                end, left = at + length, size
                if crc32(file[at + _CRC_BYTES : end]) != _read_crc(file, at)[0]:
                    _wrong_checksum()
                sample = decode(file[at + _PREFIX_BYTES : end])
                if type(sample.get(KEY)) is not str:
                    _no_key()
                yield sample
        except (CorruptRecordError, ValueError, *_UNDECODABLE) as exc:
            raise damaged(at, _undecodable(exc)) from exc

    return RecordDecoder(one, several)


_UNDECODABLE = (StructError, msgspec.DecodeError, RecursionError, TypeError, UnicodeDecodeError)
"""What decoding raises; TypeError for a map in which a map is a key."""


def _undecodable(exc: Exception) -> Exception:
    """Translate an error of the decoding libraries to CorruptRecordError; return others as is."""
    if isinstance(exc, StructError):
        return CorruptRecordError("its head lies beyond the end of the file")
    if isinstance(exc, _UNDECODABLE):
        return CorruptRecordError(f"head is no MessagePack map: {exc}")
    return exc


def _wrong_checksum() -> NoReturn:
    raise CorruptRecordError("checksum of the head does not match")


def _no_key() -> NoReturn:
    raise CorruptRecordError(f"head has no text {KEY!r}, the key of the sample")


class _Payloads(msgspec.Struct):
    """The payloads of a record, and how they are returned.

    Attributes:
        file: Buffer that holds them.
        start: Their offset in it.
        size: Their size in bytes.
        left: Bytes that are not referred to yet. Payloads do not overlap; if they could, a record
            of a few MB could be read as a sample of a few TB.
        copy: Whether values are copied.
        verify: Whether checksums are checked.
    """

    file: memoryview
    start: int
    size: int
    left: int
    copy: bool
    verify: bool

    def view(self, ref: Buffer) -> memoryview:
        """Return the payload that a reference refers to."""
        try:
            where, length, crc = _read_ref(ref)
        except StructError as exc:
            raise CorruptRecordError(f"reference of {len(ref)} bytes is too short") from exc
        begin = self.start + where
        view = self.file[begin : begin + length]
        if where + length > self.size or len(view) != length:
            raise CorruptRecordError(
                f"payload of {length} bytes at {where} exceeds the record's {self.size} bytes"
            )
        if length > self.left:
            raise CorruptRecordError(f"payload of {length} bytes at {where} overlaps another")
        self.left -= length
        if self.verify and crc32(view) != crc:
            raise CorruptRecordError(f"checksum of a payload of {length} bytes does not match")
        return view


def _resolve_map(sample: Sample, payloads: _Payloads) -> None:
    for name, value in sample.items():
        kind = type(value)
        if kind is _Ext:
            sample[name] = _resolve_ext(value.code, memoryview(value.data), payloads)
        elif kind is dict:
            _resolve_map(value, payloads)
        elif kind is list:
            sample[name] = [_resolve(item, payloads) for item in value]


def _resolve(value: Any, payloads: _Payloads) -> Any:  # noqa: ANN401
    kind = type(value)
    if kind is _Ext:
        return _resolve_ext(value.code, memoryview(value.data), payloads)
    if kind is list:
        return [_resolve(item, payloads) for item in value]
    if kind is dict:
        _resolve_map(value, payloads)
    return value


def _resolve_ext(code: int, data: memoryview, payloads: _Payloads) -> Any:  # noqa: ANN401
    copy = payloads.copy
    if code == PAYLOAD_BYTES:
        view = payloads.view(data)
        return bytes(view) if copy else view
    if code == PAYLOAD_ARRAY:
        return _array(data[REF.size :], payloads.view(data), copy)
    if code == INLINE_ARRAY:
        return _array(data, None, copy)
    if code == INLINE_SCALAR:
        return _array(data, None, copy)[()]
    raise CorruptRecordError(f"extension type {code} is unknown: written by a newer version?")


def _array(data: memoryview, elements: memoryview | None, copy: bool) -> np.ndarray:
    if len(data) < 2:
        raise CorruptRecordError("dtype header is too short")
    end = 2 + int.from_bytes(data[:2], "little")
    dtype, shape = parse_dtype(bytes(data[2:end]))
    if elements is None:
        elements = data[end:]
    if prod(shape) * dtype.itemsize != len(elements):
        raise CorruptRecordError(
            f"array {dtype} {shape} needs {prod(shape) * dtype.itemsize} bytes, has {len(elements)}"
        )
    if len(elements) == 0:
        return np.empty(shape, dtype)
    if dtype.kind in "UV":
        check_text(np.frombuffer(elements, dtype))
    # A bytearray, not array.copy(), which leaves the padding of structured dtypes uninitialised.
    source = bytearray(elements) if copy else elements
    array: np.ndarray = np.frombuffer(source, dtype).reshape(shape)
    return array
