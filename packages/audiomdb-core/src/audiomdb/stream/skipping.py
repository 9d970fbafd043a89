"""Leave out samples that cannot be loaded, if that is asked for, and say so."""

from __future__ import annotations

import msgspec

from audiomdb.log import logger
from audiomdb.notes import add_note, with_notes

__all__ = ["LeftOut", "Skipping"]

_MOST_IN_A_ROW = 100
"""After this many, the cause is not in the samples but in what is done with all of them."""

_NAMED = 10


class LeftOut(msgspec.Struct, frozen=True):
    """Stands in for a sample that is left out."""

    error: Exception


class Skipping:
    """Decides which samples of a dataset are left out.

    Threads use it without a lock: missing one in a count does not matter.
    """

    def __init__(self) -> None:
        self._left_out = self._in_a_row = 0

    def loaded(self) -> None:
        """Note that a sample was loaded."""
        self._in_a_row = 0

    def failed(self, error: Exception) -> LeftOut:
        """Leave out a sample because of an error, and log that.

        Each of the first ten is named, then every tenth, and so on.

        Raises:
            Exception: the error, if the hundred samples before have failed too.
        """
        self._left_out += 1
        self._in_a_row += 1
        if self._in_a_row > _MOST_IN_A_ROW:
            add_note(error, f"after {_MOST_IN_A_ROW} samples in a row that were left out")
            raise error
        if self._left_out % _step(self._left_out) == 0:
            logger("stream").warning(
                "left out (%d so far): %s: %s",
                self._left_out,
                type(error).__name__,
                with_notes(error),
            )
        return LeftOut(error)


def _step(count: int) -> int:
    """Return every how many samples one is named: 1 up to ten, then 10, 100 and so on."""
    step = 1
    while count > _NAMED * step:
        step *= 10
    return step
