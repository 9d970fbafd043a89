"""Bytes that an order of reading costs with a cache, by rules that know more or less of the future.

An order is a list of shard numbers, one for each sample read. Whatever is read has to be in the
cache first; no rule may read past it. So shards that are mixed over take their room in every rule.

>>> epochs = [0, 1, 2, 3] * 3
>>> {rule.__name__: rule(epochs, [1] * 4, 3) for rule in (belady, lru)}
{'belady': 6, 'lru': 12}
>>> pinning(epochs, [1] * 4, 3, workspace=1)
8
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from itertools import groupby

__all__ = ["belady", "lru", "pinning"]


def belady(order: Sequence[int], sizes: Sequence[int], capacity: int) -> int:
    """Bytes fetched when what is needed furthest in the future goes first.

    With shards of equal size nothing can do with less (Belady, IBM Systems Journal 5, 1966); with
    nearly equal ones hardly anything.

    Raises:
        ValueError: a shard is larger than the cache.
    """
    _check(order, sizes, capacity)
    reads = [shard for shard, _ in groupby(order)]
    never = len(reads)
    following, seen = [never] * never, dict[int, int]()
    for place in reversed(range(never)):
        following[place] = seen.get(reads[place], never)
        seen[reads[place]] = place
    next_use: dict[int, int] = {}
    used = fetched = 0
    for place, shard in enumerate(reads):
        if shard not in next_use:
            fetched += sizes[shard]
            used += sizes[shard]
            while used > capacity:
                # Of those never needed again, the number decides, so that runs are alike.
                victim = max(next_use, key=lambda cached: (next_use[cached], cached))
                del next_use[victim]
                used -= sizes[victim]
        next_use[shard] = following[place]
    return fetched


def lru(order: Sequence[int], sizes: Sequence[int], capacity: int) -> int:
    """Bytes fetched when what was read longest ago goes first.

    Raises:
        ValueError: a shard is larger than the cache.
    """
    _check(order, sizes, capacity)
    cached: OrderedDict[int, None] = OrderedDict()
    used = fetched = 0
    for shard, _ in groupby(order):
        if shard in cached:
            cached.move_to_end(shard)
            continue
        fetched += sizes[shard]
        used += sizes[shard]
        while used > capacity:
            used -= sizes[cached.popitem(last=False)[0]]
        cached[shard] = None
    return fetched


def pinning(order: Sequence[int], sizes: Sequence[int], capacity: int, *, workspace: int) -> int:
    """Bytes fetched when a fixed choice of shards stays, and the others pass through the rest.

    Those visited most often stay, of equals the first ones. Without repeats within an epoch that
    is as good as knowing the future.

    Args:
        order: The shard of each read.
        sizes: Bytes of each shard.
        capacity: Bytes that fit.
        workspace: Bytes kept for the others, without which they could not be read.

    Raises:
        ValueError: the workspace is larger than the cache, or a shard than the workspace.
    """
    if workspace > capacity:
        raise ValueError(f"a workspace of {workspace} bytes is more than the cache's {capacity}")
    visits = Counter(shard for shard, _ in groupby(order))
    room, pinned = capacity - workspace, set[int]()
    for shard, _ in visits.most_common():
        if sizes[shard] <= room:
            pinned.add(shard)
            room -= sizes[shard]
    others = [shard for shard in order if shard not in pinned]
    return sum(sizes[shard] for shard in pinned) + lru(others, sizes, workspace + room)


def _check(order: Sequence[int], sizes: Sequence[int], capacity: int) -> None:
    largest = max((sizes[shard] for shard in set(order)), default=0)
    if largest > capacity:
        raise ValueError(f"a shard of {largest} bytes does not fit into {capacity}")
