"""Determine which of several ranks or workers this is, and how many ranks this machine has."""

from __future__ import annotations

import os

from audiomdb.errors import PlanError

__all__ = ["ranks_here", "which_of"]


def which_of(name: str, which: int | None, several: str, number: int) -> int:
    """Return the number of this process among several, which defaults to 0 if there is only one.

    With several, it is required, so that no process reads only a part of the data by mistake.

    Args:
        name: Name of the argument with the number of this process.
        which: That argument.
        several: Name of the argument with the number of processes.
        number: That argument.

    Raises:
        PlanError: there are several, and `which` is None.
    """
    if which is None and number != 1:
        raise PlanError(
            f"{several} is {number!r}: say with {name}= which of them this is, for each reads its "
            "share. Threads are num_threads"
        )
    return which or 0


def ranks_here(world_size: int) -> int | None:
    """Return the number of ranks per machine, from `LOCAL_WORLD_SIZE`, as torchrun sets it.

    None if it is not set, or does not divide `world_size`.
    """
    text = os.environ.get("LOCAL_WORLD_SIZE", "")
    local = int(text) if text.isdecimal() else 0
    return local if local and world_size % local == 0 else None
