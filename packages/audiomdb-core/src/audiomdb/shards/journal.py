"""What a shard was made of, kept inside the shard, so that a conversion can be taken up again."""

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
        """Make one of texts that need not have a UTF-8 form."""
        return cls(utf8(key), source and utf8(source), utf8(reason))


class Journal(msgspec.Struct, frozen=True, omit_defaults=True):
    """The account of one shard.

    Attributes:
        options: What the shard's bytes depend on besides the source, as plain data.
        samples: Source samples, stored or rejected.
        bytes: Their size as the source gave it.
        digest: Hex digest over them; see `SourceDigest`.
        rejected: Those that could not be stored.
        contradictions: Field name to how often the source was wrong about the audio.
        not_finite: Stored samples whose audio holds NaN or infinite values.
    """

    options: dict[str, Any]
    samples: int
    bytes: int
    digest: str
    rejected: tuple[Rejection, ...]
    contradictions: dict[str, int]
    not_finite: int = 0


def write_rejected(dataset: Path, rejected: Sequence[Rejection]) -> None:
    """Write `rejected.jsonl`, or see that there is none where nothing was rejected."""
    path = dataset / REJECTED_FILE
    if rejected:
        write_atomically(path, (msgspec.json.encode(one) + b"\n" for one in rejected))
    else:
        path.unlink(missing_ok=True)


def utf8(text: str) -> str:
    """The same text where it has a UTF-8 form, which the name of a file need not have."""
    return text.encode("utf-8", "backslashreplace").decode()
