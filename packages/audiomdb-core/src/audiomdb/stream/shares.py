"""Determine which of several ranks or workers this is, and how many ranks this machine has."""

from __future__ import annotations

from audiomdb.errors import PlanError
from audiomdb.machine import env_number
from audiomdb.plan import Split, Tail

__all__ = ["ranks_here", "share_of"]


def share_of(
    partitions: int,
    rank: int | None,
    world_size: int,
    worker: int | None,
    num_workers: int,
    tail: Tail = "uneven",
) -> Split:
    """Return the share of a worker of a rank, in an epoch whose length is not known yet.

    Rank and worker default to 0 if there is only one. With several, they are required, so that no
    process reads only a part of the data by mistake.

    Raises:
        PlanError: a number is missing or out of range.
    """
    rank = _which_of("rank", rank, "world_size", world_size)
    worker = _which_of("worker", worker, "num_workers", num_workers)
    return Split(0, partitions, rank, world_size, worker, num_workers, tail)


def _which_of(name: str, which: int | None, several: str, number: int) -> int:
    if which is None and number != 1:
        raise PlanError(
            f"{several} is {number!r}: say with {name}= which of them this is, for each reads its "
            "share. Threads are num_threads"
        )
    return 0 if which is None else which


def ranks_here(world_size: int) -> int | None:
    """Return the number of ranks per machine, from `LOCAL_WORLD_SIZE`, as torchrun sets it.

    None if it is not set, or does not divide `world_size`.
    """
    local = env_number("LOCAL_WORLD_SIZE")
    return local if local and world_size % local == 0 else None
