"""Direct access to the place that holds a dataset, without the code under test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

__all__ = ["FolderStore", "Store"]


class Store(ABC):
    """The place that a retriever reads and an uploader writes, as a kit sees it.

    A subclass accesses the same bucket, server or folder through a plain client of its own, so
    that its results do not depend on the code under test. It stands for the place of one dataset:
    paths are relative to that, with "/". Called from one thread.

    Attributes:
        endpoint: URL of the server, or its host and port; the network tests put `FaultProxy` in
            front of it. None: there is no network, or no way to lead it through a proxy, and these
            tests are skipped.
    """

    endpoint: str | tuple[str, int] | None = None

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """Return the content of a file, or None if there is none."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Create or replace a file."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file, which exists."""

    def fill(self, folder: Path) -> None:
        """Copy all files of a folder into the store, replacing those that exist."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.write(path.relative_to(folder).as_posix(), path.read_bytes())


class FolderStore(Store):
    """A place in a folder of this machine.

    Args:
        folder: The folder, created if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, or None if there is none."""
        try:
            return (self.folder / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, path: str, content: bytes) -> None:
        """Create or replace a file; processes that have the old one mapped keep it."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.new")
        temporary.write_bytes(content)
        temporary.replace(target)

    def delete(self, path: str) -> None:
        """Delete a file."""
        (self.folder / path).unlink()
