"""Store the commit that the metadata in a cache belongs to."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

__all__ = ["CommitFile"]

_COMMIT = re.compile(rb"[0-9a-f]{40,64}")


class CommitFile:
    """The file in a cache directory that names the commit of the cached metadata.

    The process that fetches the metadata writes this file first.

    Args:
        folder: Directory of the cache.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "commit"

    def read(self) -> str | None:
        """Return the commit; None if the file is missing or damaged."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        return content.decode("ascii") if _COMMIT.fullmatch(content) else None

    def write(self, commit: str) -> None:
        """Write the commit, replacing any earlier one."""
        self.path.write_text(commit, encoding="ascii")

    def put_back(self, commit: str) -> None:
        """Write the commit again if the cache directory was deleted and recreated.

        An existing file is kept: another process may have opened the directory for another commit.
        """
        with suppress(OSError), self.path.open("x", encoding="ascii") as file:
            file.write(commit)
