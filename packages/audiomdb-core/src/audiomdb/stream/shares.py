"""Which of several this is, and how many of them are here."""

from __future__ import annotations

import os

from audiomdb.errors import PlanError

__all__ = ["ranks_here", "which_of"]


def which_of(name: str, which: int | None, several: str, number: int) -> int:
    """Return which of several this is, which need not be said where there is one.

    Nobody gets a part of the data without having asked for it.

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


def ranks_here(world_size: int) -> int | None:
    """Ranks on each machine, by `LOCAL_WORLD_SIZE` of the environment, as torchrun sets it.

    None where it says nothing, or no even share of `world_size`.
    """
    text = os.environ.get("LOCAL_WORLD_SIZE", "")
    local = int(text) if text.isdigit() else 0
    return local if local and world_size % local == 0 else None
