"""Determine the rank, the world size and the number of nodes."""

from __future__ import annotations

import os
from functools import cache

import torch.distributed
from torch.utils.data import get_worker_info

from audiomdb.log import logger
from audiomdb.machine import env_number
from audiomdb.stream.shares import ranks_here

__all__ = ["distributed_place", "environment_place", "known_nodes", "nodes_of"]

_LAUNCHERS = (("WORLD_SIZE", "GROUP_WORLD_SIZE"), ("SLURM_NTASKS", "SLURM_NNODES"))
"""The variables with which launchers (torchrun, srun) give the numbers of ranks and of nodes."""

_LOOPBACK = ("localhost", "127.", "::1")


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


def known_nodes(world_size: int) -> int | None:
    """Return the number of nodes that `world_size` ranks are on, from the environment.

    All ranks of torchrun and srun find the same number, even if nodes differ in their ranks. Other
    launchers may set `LOCAL_WORLD_SIZE`. None if nothing is set, or only for another world size.
    """
    if world_size == 1:
        return 1
    for ranks, nodes in _LAUNCHERS:
        if env_number(ranks) == world_size and (known := env_number(nodes)):
            return known
    local = ranks_here(world_size)
    return None if local is None else world_size // local


def nodes_of(world_size: int) -> int:
    """Return the number of nodes if it is known and each can have as many ranks, otherwise 1.

    Warns if it is unknown and the ranks do not meet on this machine.
    """
    nodes = known_nodes(world_size)
    if nodes is None:
        if get_worker_info() is None:
            _warn_of_unknown(world_size, os.environ.get("MASTER_ADDR", "localhost"))
        return 1
    return nodes if world_size % nodes == 0 else 1


@cache
def _warn_of_unknown(world_size: int, address: str) -> None:
    if address.startswith(_LOOPBACK):
        return
    logger("stream").warning(
        "nothing says how many machines the %d ranks are on (no GROUP_WORLD_SIZE, no SLURM_NNODES, "
        "no LOCAL_WORLD_SIZE that divides %d), so partitions is 1, and each machine reads all "
        "shards; give partitions=, the number of machines, in all ranks",
        world_size,
        world_size,
    )
