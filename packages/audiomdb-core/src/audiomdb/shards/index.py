"""Encode and parse the index of a shard: record locations, and columns read without any audio.

The index is one value in the shard's main database and, byte for byte, a part of the dataset's
`index.bin`. Its bytes: magic (8), CRC-32 of everything after it (u32), length of the map (u32), the
map, zeros up to a multiple of 16, arrays. Map and arrays are a record as `codec` encodes it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from audiomdb.errors import CorruptRecordError, CorruptShardError
from audiomdb.lazy import cached_property
from audiomdb.shards.checksum import crc32
from audiomdb.shards.codec import encode_record, resolve_fields
from audiomdb.shards.columns import Column, check_column, narrow
from audiomdb.shards.layout import ALIGNMENT

__all__ = ["ShardIndex", "converted", "encode_index", "parse_index"]

_T = TypeVar("_T")

_MAGIC = b"AMDBIDX1"
_PREFIX = len(_MAGIC) + 8
_FORMATS: dict[str, Literal["B", "H", "I", "Q"]] = {"u1": "B", "u2": "H", "u4": "I", "u8": "Q"}


class _Body(msgspec.Struct):
    """The map of an index. Values that are rarely needed stay undecoded."""

    samples: int
    key_ends: msgspec.msgpack.Ext
    key_text: msgspec.msgpack.Ext
    head_offset: msgspec.msgpack.Ext
    head_bytes: msgspec.msgpack.Ext
    payload_offset: msgspec.msgpack.Ext
    payload_bytes: msgspec.msgpack.Ext
    columns: dict[str, msgspec.Raw]
    left_out: dict[str, str]
    features: msgspec.Raw
    journal: msgspec.Raw


_decode_map = msgspec.msgpack.Decoder(_Body).decode


class ShardIndex(msgspec.Struct, frozen=True, eq=False, dict=True):
    """The index of one shard, mostly views into the bytes it was parsed from. Thread-safe.

    Columns, features and journal are decoded on access, which raises CorruptShardError if they are
    damaged.

    Attributes:
        samples: Number of records.
        head_offset: File offset of each head, in key order.
        head_bytes: Size of each head.
        payload_offset: File offset of each record's payloads.
        payload_bytes: Size of each record's payloads.
        left_out: Names of the columns that were left out, with reasons.
    """

    samples: int
    key_ends: memoryview
    key_text: memoryview
    head_offset: memoryview
    head_bytes: memoryview
    payload_offset: memoryview
    payload_bytes: memoryview
    left_out: Mapping[str, str]
    _columns: Mapping[str, msgspec.Raw]
    _features: msgspec.Raw
    _journal: msgspec.Raw
    _arrays: memoryview
    _shard: str

    @property
    def column_names(self) -> Collection[str]:
        """Names of the columns; none is decoded."""
        return self._columns.keys()

    def column(self, name: str) -> Column | None:
        """Return a column as `columns.build_columns` makes it, or None; no other is decoded."""
        raw = self._columns.get(name)
        return None if raw is None else self._checked({name: raw})[name]

    @cached_property
    def columns(self) -> Mapping[str, Column]:
        """All per-sample columns by name."""
        return self._checked(self._columns)

    @cached_property
    def features(self) -> Mapping[str, Any]:
        """Map of field names to `metadata.Feature`s, as plain data."""
        return self._map(self._features)

    @cached_property
    def journal(self) -> Mapping[str, Any]:
        """The shard's `journal.Journal`, as plain data."""
        return self._map(self._journal)

    def key(self, i: int) -> str:
        """Return the key of record `i`.

        Raises:
            CorruptShardError: when the key is not UTF-8; this library writes no such index.
        """
        try:
            return str(self._key_at(i), "utf-8")
        except UnicodeDecodeError as exc:
            raise CorruptShardError(f"key {i} of an index is no UTF-8: {exc}") from exc

    def raw_key(self, i: int) -> bytes:
        """Return the key of record `i` as UTF-8."""
        return bytes(self._key_at(i))

    def all_keys(self) -> Iterator[str]:
        """Return an iterator over all keys in order."""
        return (self.key(i) for i in range(self.samples))

    def find(self, key: str) -> int | None:
        """Return the place of a key in the shard, or None; a binary search over the UTF-8 keys."""
        raw = key.encode("utf-8", "surrogatepass")
        # Not bisect, which would call a function for each key it compares, at twice the cost of
        # the comparison.
        text, ends = self.key_text, self.key_ends
        low, high = 0, self.samples
        while low < high:
            middle = (low + high) // 2
            if text[ends[middle - 1] if middle else 0 : ends[middle]].tobytes() < raw:
                low = middle + 1
            else:
                high = middle
        return low if low < self.samples and self._key_at(low) == raw else None

    def _key_at(self, i: int) -> memoryview:
        return self.key_text[self.key_ends[i - 1] if i else 0 : self.key_ends[i]]

    def _checked(self, columns: Mapping[str, msgspec.Raw]) -> Mapping[str, Column]:
        decoded = self._decoded(columns)
        for name, column in decoded.items():
            try:
                check_column(column, self.samples)
            except ValueError as exc:
                raise _damaged(self._shard, f"column {name!r}: {exc}") from exc
        return decoded

    def _map(self, raw: msgspec.Raw) -> Mapping[str, Any]:
        return self._decoded({"": raw}, dict)[""]  # type: ignore[no-any-return]

    def _decoded(self, fields: Mapping[str, msgspec.Raw], kind: type = object) -> dict[str, Any]:
        try:
            decoded = {name: _decode_value(raw) for name, raw in fields.items()}
            resolve_fields(decoded, self._arrays, 0, len(self._arrays), False, False)
        except _UNDECODABLE as exc:
            raise _damaged(self._shard, exc) from exc
        for name, value in decoded.items():
            if not isinstance(value, kind):
                found = type(value).__name__
                raise _damaged(self._shard, f"expected a {kind.__name__}, found {found} {name}")
        return decoded


def encode_index(
    *,
    keys: Sequence[bytes],
    heads: np.ndarray,
    payloads: np.ndarray,
    columns: Mapping[str, Column],
    left_out: Mapping[str, str],
    features: Mapping[str, Any],
    journal: Mapping[str, Any],
) -> bytes:
    """Encode the index of a shard.

    Args:
        keys: The keys as UTF-8, in order.
        heads: `(samples, 2)` uint64, offset and size of each head in the file.
        payloads: `(samples, 2)` uint64, offset and size of each record's payloads in the file.
        columns: Columns by name.
        left_out: Names of columns that were left out, with reasons.
        features: Features by field name, as plain data.
        journal: The shard's journal, as plain data.
    """
    ends = np.cumsum(np.fromiter((len(k) for k in keys), np.uint64, len(keys)), dtype=np.uint64)
    record = encode_record(
        "index",
        {
            "samples": len(keys),
            "key_ends": narrow(ends),
            "key_text": np.frombuffer(b"".join(keys), np.uint8),
            "head_offset": narrow(heads[:, 0]),
            "head_bytes": narrow(heads[:, 1]),
            "payload_offset": narrow(payloads[:, 0]),
            "payload_bytes": narrow(payloads[:, 1]),
            "columns": columns,
            "left_out": left_out,
            "features": features,
            "journal": journal,
        },
    )
    gap = bytes(-(_PREFIX + len(record.body)) % ALIGNMENT)
    rest = b"".join((len(record.body).to_bytes(4, "little"), record.body, gap, *record.payloads))
    return b"".join((_MAGIC, crc32(rest).to_bytes(4, "little"), rest))


def parse_index(
    data: memoryview,
    shard: str,
    shard_bytes: int,
    *,
    samples: int | None = None,
    check: bool = True,
) -> ShardIndex:
    """Check and decode the index of a shard.

    Args:
        data: Bytes of the index; the result keeps views into them.
        shard: Name of the shard in error messages.
        shard_bytes: Size of the shard's data.mdb.
        samples: Number of samples according to the metadata. None: it is not checked.
        check: Check the checksum and the tables. False if the same bytes were checked before.

    Raises:
        CorruptShardError: when the bytes are damaged or inconsistent.
    """
    if bytes(data[: len(_MAGIC)]) != _MAGIC:
        raise CorruptShardError(f"{shard}: no index where one is expected")
    if check and crc32(data[12:]) != int.from_bytes(data[8:12], "little"):
        raise CorruptShardError(f"{shard}: checksum of the index does not match")
    body_end = _PREFIX + int.from_bytes(data[12:_PREFIX], "little")
    try:
        body = _decode_map(data[_PREFIX:body_end])
        arrays = data[body_end + -body_end % ALIGNMENT :]
        tables: dict[str, Any] = {name: getattr(body, name) for name in _TABLES}
        resolve_fields(tables, arrays, 0, len(arrays), False, False)
        index = ShardIndex(
            samples=body.samples,
            key_ends=_table(tables["key_ends"], body.samples),
            key_text=_table(tables["key_text"], None),
            head_offset=_table(tables["head_offset"], body.samples),
            head_bytes=_table(tables["head_bytes"], body.samples),
            payload_offset=_table(tables["payload_offset"], body.samples),
            payload_bytes=_table(tables["payload_bytes"], body.samples),
            left_out=body.left_out,
            _columns=body.columns,
            _features=body.features,
            _journal=body.journal,
            _arrays=arrays,
            _shard=shard,
        )
    except _UNDECODABLE as exc:
        raise _damaged(shard, exc) from exc
    if samples not in (None, index.samples):
        raise CorruptShardError(f"{shard} holds {index.samples} samples, metadata says {samples}")
    if check:
        ends = np.asarray(index.key_ends)
        if body.samples and (int(ends[-1]) != len(index.key_text) or np.any(ends[1:] < ends[:-1])):
            raise CorruptShardError(f"{shard}: the index's table of keys is damaged")
        for offset, size in (
            (index.head_offset, index.head_bytes),
            (index.payload_offset, index.payload_bytes),
        ):
            if not _within(np.asarray(offset), np.asarray(size), shard_bytes):
                raise CorruptShardError(
                    f"{shard}: the index has records beyond the file's {shard_bytes} bytes"
                )
    return index


_TABLES = (
    "key_ends",
    "key_text",
    "head_offset",
    "head_bytes",
    "payload_offset",
    "payload_bytes",
)
_UNDECODABLE = (
    msgspec.DecodeError,
    RecursionError,
    TypeError,
    ValueError,
    AttributeError,
    CorruptRecordError,
)
_decode_value = msgspec.msgpack.Decoder().decode


def converted(value: object, kind: type[_T]) -> _T:
    """Convert a value of an index's maps to a type, as `msgspec.convert` does.

    Raises:
        msgspec.ValidationError: it does not fit. msgspec has other errors for NumPy's records, with
            which a forged index may replace maps.
    """
    try:
        return msgspec.convert(dict(value) if isinstance(value, Mapping) else value, kind)
    except (IndexError, TypeError, ValueError) as exc:
        raise msgspec.ValidationError(str(exc)) from exc


def _within(offset: np.ndarray, size: np.ndarray, end: int) -> bool:
    """Whether all ranges of an offset and a size lie before `end`; neither may overflow."""
    if not len(offset):
        return True
    if max(int(offset.max()), int(size.max())) > end:
        return False
    return int((offset.astype(np.uint64) + size).max()) <= end


def _damaged(shard: str, why: object) -> CorruptShardError:
    return CorruptShardError(f"{shard}: the index is damaged: {why}")


def _table(array: np.ndarray, samples: int | None) -> memoryview:
    form = _FORMATS.get(array.dtype.str[1:])
    if form is None or array.ndim != 1 or samples not in (None, len(array)):
        raise ValueError(f"table {array.dtype} {array.shape} for {samples} samples")
    # A memoryview returns Python integers, in half the time that NumPy takes to return its own.
    # It is cast from bytes, because NumPy gives a memoryview of an unaligned array (in a small
    # index) an unknown format.
    data: memoryview = array.view(np.uint8).data
    return data.cast(form)
