"""Which of several this is: nobody gets a part of the data without having asked for it."""

from __future__ import annotations

from audiomdb.errors import PlanError

__all__ = ["which_of"]


def which_of(name: str, which: int | None, several: str, number: int) -> int:
    """Return which of several this is, which need not be said where there is one.

    Args:
        name: Of the argument that says it.
        which: That argument.
        several: Name of the argument that says how many there are.
        number: That argument.

    Raises:
        PlanError: there are several, and nobody says which of them this is.
    """
    if which is None and number != 1:
        raise PlanError(
            f"{several} is {number!r}: say with {name}= which of them this is, for each reads its "
            "share. Threads are num_threads"
        )
    return which or 0
