"""A place that holds datasets, looked into without the code under test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

__all__ = ["FolderStore", "Store"]


class Store(ABC):
    """The place that a retriever reads and an uploader writes, as the kit sees it.

    A subclass speaks to the same bucket, server or folder through a plain client of its own, so
    that what it says does not depend on what is tested. It stands for the place of one dataset:
    paths are relative to that, with "/". Called from one thread.

    Attributes:
        endpoint: URL of the server, or its host and port; what the tests of the network put
            `FaultProxy` before. None: there is no network, or no way to lead it through a proxy,
            and these tests are skipped.
    """

    endpoint: str | tuple[str, int] | None = None

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """All of a file; None where there is none."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Make or replace a file."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a file that is there."""

    def fill(self, folder: Path) -> None:
        """Make or replace all files of a folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.write(path.relative_to(folder).as_posix(), path.read_bytes())


class FolderStore(Store):
    """A place in a folder of this machine.

    Args:
        folder: Made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, path: str) -> bytes | None:
        """All of a file."""
        try:
            return (self.folder / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, path: str, content: bytes) -> None:
        """Make or replace a file; who has the old one mapped keeps it."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.new")
        temporary.write_bytes(content)
        temporary.replace(target)

    def delete(self, path: str) -> None:
        """Remove a file."""
        (self.folder / path).unlink()
