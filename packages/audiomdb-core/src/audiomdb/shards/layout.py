"""Names and constants of a dataset on disk. docs/format.md is the specification."""

from __future__ import annotations

import re

__all__ = [
    "ALIGNMENT",
    "BLOCKS_DB",
    "BLOCK_BYTES",
    "DATA_FILE",
    "DEFAULT_SHARD_BYTES",
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "INDEX_FILE",
    "INDEX_KEY",
    "INLINE_BYTES",
    "LOCK_FILE",
    "MAX_SHARD_SAMPLES",
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
"""Named database that maps the user's keys to the heads of their records."""

BLOCKS_DB = b"blocks"
"""Named database that maps block numbers (4 bytes, big endian) to payloads of adjacent records."""

INDEX_KEY = b"index"
"""Key of the shard's index in the main database."""

ALIGNMENT = 16
"""Payloads start at multiples of this in the file: LMDB puts a large value 16 bytes into a page."""

BLOCK_BYTES = 256 * 1024
"""Payloads are packed until a block would exceed this size; docs/decisions/0006 says why."""

INLINE_BYTES = 256
"""Byte strings and arrays up to this size are stored in the head, larger ones in a block."""

DEFAULT_SHARD_BYTES = 64 * 1024 * 1024
"""Default limit on the source bytes of a shard."""

MAX_SHARD_SAMPLES = 64 * 1024
"""Limit on the source samples of a shard that is closed by bytes: they may have none."""


def shard_name(number: int) -> str:
    """Return the folder of shard `number`, relative to the dataset."""
    return f"shard_{number:05d}"


def shard_number(name: str) -> int | None:
    """Return the number of the shard whose folder has this name; None if it is no shard's name."""
    found = re.fullmatch(r"shard_([0-9]{5,9})", name)
    number = int(found[1]) if found else 0
    return number if name == shard_name(number) else None
