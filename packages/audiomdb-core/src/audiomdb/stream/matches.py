"""Say how many samples have a row in a joined table, which nothing else would show if none has."""

from __future__ import annotations

from audiomdb.log import logger
from audiomdb.quantities import counted

__all__ = ["Matches"]


class Matches:
    """Counts the samples of a process that have a row in a table, and logs that once.

    Threads use it without a lock: missing one in a count does not matter.

    Args:
        table: Name of the table.
        rows: Number of its rows, at least 1.
        row: Key of one of them.
    """

    def __init__(self, table: str, rows: int, row: str) -> None:
        self._table, self._rows, self._row = table, rows, row
        self._found = self._missed = 0
        self._said = False

    def add(self, key: str, *, found: bool, among: int) -> None:
        """Count a sample.

        Args:
            key: Key of the sample.
            found: Whether there is a row for it.
            among: Number of samples of its dataset.
        """
        if self._said:
            return
        self._found += found
        self._missed += not found
        read = self._found + self._missed
        # No earlier: a shuffle that mixes a few shards at a time, or none, is no fair sample.
        if read >= among:
            self._say(key, read)

    def _say(self, key: str, read: int) -> None:
        self._said = True
        if self._found:
            logger("stream").info(
                "%s had a row for %d of the first %d samples read, and has %s",
                self._table,
                self._found,
                read,
                counted(self._rows, "row"),
            )
            return
        logger("stream").warning(
            "%s has %s, and none for the first %d samples read: a key of it is %r, one of the "
            "samples %r",
            self._table,
            counted(self._rows, "row"),
            read,
            self._row,
            key,
        )
