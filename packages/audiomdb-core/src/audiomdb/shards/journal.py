"""What a shard was made of, kept inside the shard, so that a conversion can be taken up again."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Journal", "Rejection", "SourceDigest", "utf8"]


class Rejection(msgspec.Struct, frozen=True):
    """A source sample that could not be stored: its key, the file it came from, and why."""

    key: str
    source: str | None
    reason: str


class Journal(msgspec.Struct, frozen=True, omit_defaults=True):
    """The account of one shard.

    Attributes:
        options: What the shard's bytes depend on besides the source, as plain data.
        samples: Source samples, stored or rejected.
        bytes: Their size as the source gave it.
        digest: Hex digest over their keys and sizes.
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


class SourceDigest:
    """Sums up the source samples of one shard, in order."""

    def __init__(self) -> None:
        import hashlib

        self._hash = hashlib.sha256()
        self.samples = 0
        self.bytes = 0

    def add(self, key: str, size: int) -> None:
        """Count one source sample."""
        raw = str(key).encode("utf-8", "surrogatepass")
        self._hash.update(b"%d %d " % (len(raw), size) + raw)
        self.samples += 1
        self.bytes += size

    def hexdigest(self) -> str:
        """Hex digest over all that was added."""
        return self._hash.hexdigest()


def utf8(text: str) -> str:
    """The same text where it has a UTF-8 form, which the name of a file need not have."""
    return text.encode("utf-8", "backslashreplace").decode()
