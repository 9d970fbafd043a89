"""The journal of a shard, stored inside it: what it was made from, so that a run can be resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from audiomdb.shards.files import write_atomically
from audiomdb.shards.layout import REJECTED_FILE

__all__ = ["Journal", "Rejection", "utf8", "write_rejected"]


class Rejection(msgspec.Struct, frozen=True):
    """A source sample that could not be stored: its key, the file it came from, and why."""

    key: str
    source: str | None
    reason: str

    @classmethod
    def of(cls, key: str, source: str | None, reason: str) -> Rejection:
        """Make a rejection from texts that may have no UTF-8 form."""
        return cls(utf8(key), source and utf8(source), utf8(reason))


class Journal(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one shard was made from.

    Attributes:
        options: Everything besides the source that the shard's bytes depend on, as plain data.
        samples: Number of source samples, stored or rejected.
        bytes: Total size of the source samples.
        digest: Hex digest of the source samples; see `SourceDigest`.
        rejected: Source samples that could not be stored.
        contradictions: For each field, how often its source value contradicted the audio.
        not_finite: Number of stored samples whose audio holds NaN or infinite values.
    """

    options: dict[str, Any]
    samples: int
    bytes: int
    digest: str
    rejected: tuple[Rejection, ...]
    contradictions: dict[str, int]
    not_finite: int = 0


def write_rejected(dataset: Path, rejected: Sequence[Rejection]) -> None:
    """Write `rejected.jsonl`, or delete it if nothing was rejected."""
    path = dataset / REJECTED_FILE
    if rejected:
        write_atomically(path, (msgspec.json.encode(one) + b"\n" for one in rejected))
    else:
        path.unlink(missing_ok=True)


def utf8(text: str) -> str:
    """Return the text, with characters that have no UTF-8 form (as in file names) escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
