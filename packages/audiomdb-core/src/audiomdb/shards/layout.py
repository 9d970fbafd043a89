"""Names and constants of a dataset on disk. docs/format.md is the specification."""

from __future__ import annotations

import re

__all__ = [
    "ALIGNMENT",
    "BLOCKS_DB",
    "BLOCK_BYTES",
    "DATA_FILE",
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "INDEX_FILE",
    "INDEX_KEY",
    "INLINE_BYTES",
    "LOCK_FILE",
    "MAX_SHARD_BYTES",
    "METADATA_FILE",
    "REJECTED_FILE",
    "SAMPLES_DB",
    "shard_name",
    "shard_number",
]

FORMAT_NAME = "audiomdb"
FORMAT_VERSION = 1

METADATA_FILE = "metadata.json"
INDEX_FILE = "index.bin"
REJECTED_FILE = "rejected.jsonl"
DATA_FILE = "data.mdb"
LOCK_FILE = "lock.mdb"

SAMPLES_DB = b"samples"
"""Named database: the user's key > the head of its record."""

BLOCKS_DB = b"blocks"
"""Named database: block number (4 bytes, big endian) > payloads of neighbouring records."""

INDEX_KEY = b"index"
"""Key, in the main database, of the shard's index."""

ALIGNMENT = 16
"""Payloads start at multiples of this in the file: LMDB puts a large value 16 bytes into a page."""

BLOCK_BYTES = 256 * 1024
"""Payloads are packed until a block would exceed this. See docs/decisions/0006 for the choice."""

INLINE_BYTES = 256
"""Byte strings and arrays up to this size stay in the head, longer ones go to a block."""

MAX_SHARD_BYTES = 64 * 1024 * 1024
"""Source bytes at which a shard closes unless the caller says otherwise."""


def shard_name(number: int) -> str:
    """Folder of shard `number`, relative to the dataset."""
    return f"shard_{number:05d}"


def shard_number(name: str) -> int | None:
    """Number of the shard whose folder has this name; None where `shard_name` gives no such."""
    found = re.fullmatch(r"shard_([0-9]{5,9})", name)
    number = int(found[1]) if found else 0
    return number if name == shard_name(number) else None
