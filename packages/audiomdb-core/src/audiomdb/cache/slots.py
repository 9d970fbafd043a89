"""Transfers at once on this machine: so many locked files, so many transfers.

Whoever fetches a shard needs one slot. A large shard may use more, as long as nobody lacks one for
a shard of their own: who lacks one leaves a sign, and extra slots are given back at the end of a
piece. Readers that wait come before shards that are fetched ahead, and have the first slot to
themselves, where there is more than one.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from audiomdb.cache.lock import Held, is_held, try_exclusive

__all__ = ["ExtraSlots", "Slots"]


class Slots:
    """The slots of a cache directory. Threads share one.

    Args:
        folder: Where the files are.
        count: How many there are.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._count = count

    def take(self, *, ahead: bool) -> Held | None:
        """A free slot; None when there is none.

        Args:
            ahead: For a shard that nobody waits for.

        Raises:
            FileNotFoundError: somebody has deleted the folder.
        """
        first = 1 if ahead and self._count > 1 else 0
        for number in range(first, self._count):
            slot = try_exclusive(self._folder / str(number), create=True)
            if slot is not None:
                return slot
        return None

    def lacking(self, *, ahead: bool) -> Held | None:
        """Say that somebody lacks a slot, until the result is released.

        None: somebody else says so already, or the folder is deleted, and all slots are free.
        """
        with suppress(FileNotFoundError):
            return try_exclusive(self._sign(ahead), create=True)
        return None

    def extra(self, *, ahead: bool) -> ExtraSlots:
        """More slots for a transfer that has one."""
        return ExtraSlots(self, ahead=ahead)

    def is_lacked(self, *, ahead: bool) -> bool:
        """Whether somebody lacks a slot whom an extra one should be given to."""
        return is_held(self._sign(False)) or (ahead and is_held(self._sign(True)))

    def _sign(self, ahead: bool) -> Path:
        return self._folder / f"lacking.{'ahead' if ahead else 'demand'}"


class ExtraSlots:
    """Slots beyond the first for one transfer.

    Args:
        slots: Of the directory.
        ahead: Nobody waits for the shard.
    """

    def __init__(self, slots: Slots, *, ahead: bool) -> None:
        self._slots = slots
        self._ahead = ahead

    def take(self) -> Held | None:
        """One that is free and that nobody lacks."""
        # Whoever lacks a slot makes a deleted folder again; a transfer does without more of them.
        with suppress(FileNotFoundError):
            return None if self.must_yield() else self._slots.take(ahead=self._ahead)
        return None

    def must_yield(self) -> bool:
        """Whether somebody lacks a slot."""
        return self._slots.is_lacked(ahead=self._ahead)
