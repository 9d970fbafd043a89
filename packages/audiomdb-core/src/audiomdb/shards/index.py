"""The index of a shard: where each record lies, and columns that are read without any audio.

It is one value in the shard's main database and, word for word, a part of the dataset's
`index.bin`. Its bytes: magic (8), crc32 of all that follows (u32), length of the map (u32), the
map, zeros up to a multiple of 16, arrays. Map and arrays are a record as `codec` writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from audiomdb.errors import CorruptRecordError, CorruptShardError
from audiomdb.shards.checksum import crc32
from audiomdb.shards.codec import decode_body, encode_record, resolve_fields
from audiomdb.shards.columns import Column, narrow
from audiomdb.shards.layout import ALIGNMENT

__all__ = ["ShardIndex", "encode_index", "parse_index"]

_MAGIC = b"AMDBIDX1"
_PREFIX = len(_MAGIC) + 8
_FORMATS: dict[str, Literal["B", "H", "I", "Q"]] = {"u1": "B", "u2": "H", "u4": "I", "u8": "Q"}


class ShardIndex(msgspec.Struct, frozen=True, eq=False):
    """One shard's index, mostly views into the bytes it was parsed from. Safe to share.

    Attributes:
        samples: Number of records.
        head_offset: File offset of each head, records in key order.
        head_bytes: Size of each head.
        payload_offset: File offset of each record's payloads.
        payload_bytes: Their size.
        columns: Per-sample columns by name, as `columns.build_columns` makes them.
        left_out: Columns that are missing here, and why.
        features: Field name to `metadata.Feature` as plain data.
        journal: What the shard was made of (`journal.Journal`) as plain data.
    """

    samples: int
    key_ends: memoryview
    key_text: memoryview
    head_offset: memoryview
    head_bytes: memoryview
    payload_offset: memoryview
    payload_bytes: memoryview
    columns: Mapping[str, Column]
    left_out: Mapping[str, str]
    features: Mapping[str, Any]
    journal: Mapping[str, Any]

    def key(self, i: int) -> str:
        """Key of record `i`.

        Raises:
            CorruptShardError: when it is no UTF-8; no writer of ours makes such an index.
        """
        try:
            return str(self._key_at(i), "utf-8")
        except UnicodeDecodeError as exc:
            raise CorruptShardError(f"key {i} of an index is no UTF-8: {exc}") from exc

    def raw_key(self, i: int) -> bytes:
        """UTF-8 of the key of record `i`."""
        return bytes(self._key_at(i))

    def all_keys(self) -> Iterator[str]:
        """All keys in order."""
        return (self.key(i) for i in range(self.samples))

    def find(self, key: str) -> int | None:
        """Place of a key in the shard, or None. Binary search; keys are sorted as UTF-8."""
        raw = key.encode("utf-8", "surrogatepass")
        # Spelled out: bisect would call a function for each key it looks at, which takes twice
        # as long as looking.
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
    """Encode an index.

    Args:
        keys: UTF-8 of the keys in order.
        heads: `(samples, 2)` uint64, offset and size of each head in the file.
        payloads: `(samples, 2)` uint64, the same of each record's payloads.
        columns: Columns by name.
        left_out: Names of columns not taken, with reasons.
        features: What each field holds.
        journal: What the shard was made of.
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


def parse_index(data: memoryview, shard: str) -> ShardIndex:
    """Check and decode an index.

    Args:
        data: Its bytes; the result keeps views into them.
        shard: What errors call the shard.

    Raises:
        CorruptShardError: when the bytes are damaged or do not fit each other.
    """
    if bytes(data[: len(_MAGIC)]) != _MAGIC:
        raise CorruptShardError(f"{shard}: no index where one is expected")
    if crc32(data[12:]) != int.from_bytes(data[8:12], "little"):
        raise CorruptShardError(f"{shard}: checksum of the index does not match")
    body_end = _PREFIX + int.from_bytes(data[12:_PREFIX], "little")
    try:
        fields = decode_body(data[_PREFIX:body_end])
        arrays = data[body_end + -body_end % ALIGNMENT :]
        resolve_fields(fields, arrays, 0, len(arrays), False, False)
        samples = fields["samples"]
        index = ShardIndex(
            samples=samples,
            key_ends=_table(fields["key_ends"], samples),
            key_text=_table(fields["key_text"], None),
            head_offset=_table(fields["head_offset"], samples),
            head_bytes=_table(fields["head_bytes"], samples),
            payload_offset=_table(fields["payload_offset"], samples),
            payload_bytes=_table(fields["payload_bytes"], samples),
            columns=_map(fields["columns"]),
            left_out=_map(fields["left_out"]),
            features=_map(fields["features"]),
            journal=_map(fields["journal"]),
        )
    except (KeyError, TypeError, ValueError, CorruptRecordError) as exc:
        raise CorruptShardError(f"{shard}: the index is damaged: {exc}") from exc
    ends = np.asarray(index.key_ends)
    if samples and (int(ends[-1]) != len(index.key_text) or np.any(ends[1:] < ends[:-1])):
        raise CorruptShardError(f"{shard}: the index's table of keys is damaged")
    return index


def _map(value: Any) -> Mapping[str, Any]:  # noqa: ANN401
    if not isinstance(value, dict):
        raise TypeError(f"expected a map, found {type(value).__name__}")
    return value


def _table(array: np.ndarray, samples: int | None) -> memoryview:
    form = _FORMATS.get(array.dtype.str[1:])
    if form is None or array.ndim != 1 or samples not in (None, len(array)):
        raise ValueError(f"table {array.dtype} {array.shape} for {samples} samples")
    # A memoryview gives Python integers, in half the time NumPy takes to give its own. Through
    # bytes, because NumPy marks one that is not aligned (a small index) as of unknown format.
    data: memoryview = array.view(np.uint8).data
    return data.cast(form)
