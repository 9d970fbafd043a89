"""Determine the rank, the world size and the number of nodes."""

from __future__ import annotations

import os

import torch.distributed

from audiomdb.stream.shares import ranks_here

__all__ = ["distributed_place", "environment_place", "nodes_of"]


def distributed_place() -> tuple[int, int] | None:
    """Return rank and world size from `torch.distributed`; None if it is not initialised."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def environment_place() -> tuple[int, int] | None:
    """Return rank and world size from `RANK` and `WORLD_SIZE`, as torchrun sets them.

    None if one of them is not set.

    Raises:
        ValueError: one of them is not a number.
    """
    values = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE")]
    if None in values:
        return None
    try:
        rank, world_size = (int(value or "") for value in values)
    except ValueError:
        raise ValueError(
            f"the environment says RANK={values[0]!r} and WORLD_SIZE={values[1]!r}, expected "
            "numbers; unset them, or pass rank= and world_size="
        ) from None
    return rank, world_size


def nodes_of(world_size: int) -> int:
    """Return the number of nodes by `LOCAL_WORLD_SIZE`, as torchrun sets it; 1 if unknown."""
    local = ranks_here(world_size)
    return 1 if local is None else world_size // local
