"""Refuse a reader if the budget is too small for it and all other readers of the directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from audiomdb.cache.budget import Reading, need_bytes, smallest_budget
from audiomdb.cache.readers import registration_bytes
from audiomdb.errors import CacheTooSmallError
from audiomdb.machine import env_number

__all__ = ["refuse_too_many"]


def refuse_too_many(
    directory: Path,
    sizes: Sequence[int],
    at_once: int,
    visits: int,
    *,
    workers: int,
    others: Sequence[tuple[Reading, int]],
    fixed: int,
    budget: int,
    asked_bytes: int | None,
) -> None:
    """Check that a budget suffices for one more reader.

    Those of `workers` readers that are not registered yet count too, so that a budget too small for
    all of them is refused at the first, not in the middle of an epoch. Other ranks may have
    separate directories, so they do not count; but the error names the budget that suffices for all
    ranks of this machine, if a launcher such as torchrun has set their number.

    Args:
        directory: The cache directory.
        sizes: Bytes of each shard of the dataset.
        at_once: Shards that the reader holds at a time.
        visits: Maximum number of visits that it will publish.
        workers: Readers like it that use the directory, including it.
        others: Readers that are registered, and the sizes of their files in bytes.
        fixed: Bytes of all that is neither shards nor readers' files.
        budget: The budget in force.
        asked_bytes: The budget that this process asked for.

    Raises:
        CacheTooSmallError: it does not suffice; names the smallest that does.
    """

    def least(readers: int) -> int:
        mine = max(1, readers - len(others))
        return smallest_budget(
            [need_bytes(sizes, at_once)] * mine + [reading.needs for reading, _ in others],
            sum(sizes),
            fixed + sum(size for _, size in others) + mine * registration_bytes(visits),
        )

    if budget >= least(workers):
        return
    largest = max(sizes, default=0)
    shards = "1 shard" if at_once == 1 else f"{at_once} shards"
    beside = max(1, workers, len(others) + 1) - 1
    with_others = ""
    if beside:
        readers = "1 other reader" if beside == 1 else f"{beside} other readers"
        with_others = f", beside {readers} of this directory"
    ranks = env_number("LOCAL_WORLD_SIZE") or 1
    of_ranks = least(workers * ranks)
    smallest = f"max_cache_bytes={least(workers)}"
    not_begun = ", such as those of another rank,"
    if ranks > 1:
        smallest = (
            f"max_cache_bytes={of_ranks} for the {ranks} ranks of this machine, {least(workers)} "
            "where each has a cache_dir of its own"
        )
        not_begun = ""
    one_more = least(max(workers * ranks, len(others) + 1) + 1) - of_ranks
    refusal = (
        f"max_cache_bytes={budget} is too small for {directory}: this reader holds {shards} of up "
        f"to {largest} bytes at once{with_others}. The smallest that works is {smallest}; "
        f"{largest} more for each download under way keeps it fast. Other readers that have not "
        f"begun{not_begun} are not counted: each needs up to {one_more} more. Fewer workers or a "
        "smaller window need less"
    )
    if asked_bytes != budget:
        refusal += (
            f". This process asked for {asked_bytes}, but the directory is in use, and who opened "
            f"it first asked for {budget}: close that stream, dataset or retriever"
        )
    raise CacheTooSmallError(refusal)
