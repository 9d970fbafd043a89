"""The file that says which commit a cache's metadata is of."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

__all__ = ["CommitFile"]

_COMMIT = re.compile(rb"[0-9a-f]{40,64}")


class CommitFile:
    """The file. Whoever fetches metadata for a cache writes it first.

    Args:
        folder: Of the cache.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "commit"

    def read(self) -> str | None:
        """The commit; None where there is no such file, or it came damaged off the disk."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        return content.decode("ascii") if _COMMIT.fullmatch(content) else None

    def write(self, commit: str) -> None:
        """Write it, in place of what is there."""
        self.path.write_text(commit, encoding="ascii")

    def put_back(self, commit: str) -> None:
        """Write it where somebody has deleted the directory, which has been made again.

        If somebody else has opened that for another commit meanwhile, his stays.
        """
        with suppress(OSError), self.path.open("x", encoding="ascii") as file:
            file.write(commit)
