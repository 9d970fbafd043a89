"""Datasets that lie, with checksums that are right: as somebody writes them who means harm."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.msgpack import Ext

from audiomdb.shards.checksum import crc32
from audiomdb.shards.codec import pack_head
from audiomdb.shards.index import encode_index

__all__ = ["INDEX_PREFIX", "array", "encode", "forge", "reference"]

INDEX_PREFIX = 16

encode = msgspec.msgpack.Encoder().encode


def forge(
    path: Path,
    records: Mapping[str, Any],
    *,
    payloads: bytes = b"",
    columns: Mapping[str, Any] | None = None,
    index: Callable[[dict[str, Any]], object] = lambda tree: tree,
    metadata: Callable[[dict[str, Any]], object] = lambda tree: tree,
) -> Path:
    """Write a dataset of one shard, which is no LMDB file: readers go by the index alone.

    Args:
        path: Folder of the dataset.
        records: The map of each head by key, or its bytes.
        payloads: The payloads, which all records have in common.
        columns: Columns by name, as the index holds them.
        index: Changes the map of the index.
        metadata: Changes the metadata.
    """
    file, heads = bytearray(payloads), []
    for tree in records.values():
        head = pack_head(tree if isinstance(tree, bytes) else encode(tree), 0, 0)
        heads.append((len(file), len(head)))
        file += head
    file += bytes(-len(file) % INDEX_PREFIX)
    encoded = encode_index(
        keys=[key.encode() for key in records],
        heads=np.array(heads, np.uint64).reshape(-1, 2),
        payloads=np.array([(0, len(payloads))] * len(records), np.uint64).reshape(-1, 2),
        columns={} if columns is None else columns,
        left_out={},
        features={},
        journal={"rejected": []},
    )
    encoded = _changed(encoded, index)
    data = bytes(file) + encoded
    shard = path / "shard_00000"
    shard.mkdir(parents=True)
    (shard / "data.mdb").write_bytes(data)
    (shard / "lock.mdb").touch()
    padded = encoded + bytes(-len(encoded) % INDEX_PREFIX)
    (path / "index.bin").write_bytes(padded)
    entry = {
        "path": "shard_00000",
        "samples": len(records),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "duration": 0.0,
        "first_key": min(records, default=""),
        "last_key": max(records, default=""),
        "index_offset": len(file),
        "index_bytes": len(encoded),
    }
    tree = {
        "format": "audiomdb",
        "format_version": 1,
        "name": "forged",
        "samples": len(records),
        "bytes": len(data),
        "duration": 0.0,
        "features": {name: {"types": ["bytes"]} for name in ("blob", "tags", "vec")},
        "processors": [],
        "rejected": 0,
        "index": {
            "path": "index.bin",
            "bytes": len(padded),
            "sha256": hashlib.sha256(padded).hexdigest(),
        },
        "shards": [entry],
    }
    metadata(tree)
    (path / "metadata.json").write_text(json.dumps(tree))
    return path


def array(descr: Any, shape: list[int], elements: bytes = b"") -> Ext:
    """A small array as a head or an index holds it."""
    header = encode([descr, shape])
    return Ext(3, len(header).to_bytes(2, "little") + header + elements)


def reference(where: int, payload: bytes) -> Ext:
    """A reference to a payload of bytes."""
    place = where.to_bytes(8, "little") + len(payload).to_bytes(8, "little")
    return Ext(1, place + crc32(payload).to_bytes(4, "little"))


def _changed(index: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    end = INDEX_PREFIX + int.from_bytes(index[12:INDEX_PREFIX], "little")
    tree = msgspec.msgpack.decode(index[INDEX_PREFIX:end])
    change(tree)
    body = encode(tree)
    rest = len(body).to_bytes(4, "little") + body + bytes(-(INDEX_PREFIX + len(body)) % 16)
    rest += index[end + -end % 16 :]
    return index[:8] + crc32(rest).to_bytes(4, "little") + rest
