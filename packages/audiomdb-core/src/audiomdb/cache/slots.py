"""Limit the concurrent transfers of a machine: each holds the lock of one slot, which is a file.

The transfer of a shard needs one slot. A large shard may use more, as long as no other transfer
lacks its first one: a transfer that lacks a slot signals this, and extra slots are released at the
end of a piece. Readers that wait have priority over prefetching, and the first slot is reserved for
them, if there is more than one.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from audiomdb.cache.lock import Held, is_held, try_exclusive

__all__ = ["ExtraSlots", "Slots"]


class Slots:
    """The slots of a cache directory. Thread-safe.

    Args:
        folder: Folder of the slot files.
        count: Number of slots.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._count = count

    def take(self, *, ahead: bool) -> Held | None:
        """Take a free slot; return None when there is none.

        Args:
            ahead: Whether the slot is for prefetching.

        Raises:
            FileNotFoundError: the folder has been deleted.
        """
        first = 1 if ahead and self._count > 1 else 0
        for number in range(first, self._count):
            slot = try_exclusive(self._folder / str(number), create=True)
            if slot is not None:
                return slot
        return None

    def lacking(self, *, ahead: bool) -> Held | None:
        """Signal that a transfer lacks a slot, until the result is released.

        Returns:
            None when this is already signalled, or the folder was deleted, so all slots are free.
        """
        with suppress(FileNotFoundError):
            return try_exclusive(self._sign(ahead), create=True)
        return None

    def extra(self, *, ahead: bool) -> ExtraSlots:
        """Return the extra slots for a transfer that has one slot."""
        return ExtraSlots(self, ahead=ahead)

    def is_lacked(self, *, ahead: bool) -> bool:
        """Return whether a transfer lacks a slot and has priority over one that has an extra slot.

        Args:
            ahead: Whether the extra slot is for prefetching.
        """
        return is_held(self._sign(False)) or (ahead and is_held(self._sign(True)))

    def _sign(self, ahead: bool) -> Path:
        return self._folder / f"lacking.{'ahead' if ahead else 'demand'}"


class ExtraSlots:
    """Slots beyond the first for one transfer.

    Args:
        slots: Slots of the directory.
        ahead: Whether the transfer prefetches.
    """

    def __init__(self, slots: Slots, *, ahead: bool) -> None:
        self._slots = slots
        self._ahead = ahead

    def take(self) -> Held | None:
        """Take a free slot; return None when there is none, or another transfer lacks one."""
        # A deleted folder is created again for first slots; a transfer can do without extra ones.
        with suppress(FileNotFoundError):
            return None if self.must_yield() else self._slots.take(ahead=self._ahead)
        return None

    def must_yield(self) -> bool:
        """Return whether extra slots should be released, because another transfer lacks one."""
        return self._slots.is_lacked(ahead=self._ahead)
