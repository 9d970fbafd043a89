"""Find what depends on `hash`, which gives another number for a text in every process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from audiomdb.shards.source_digest import SourceDigest, contents

__all__ = ["HASH_SEEDS", "digest_in_order", "in_process_with"]

_T = TypeVar("_T")

HASH_SEEDS = ("1", "2")
"""Values of PYTHONHASHSEED to compare."""


def digest_in_order(sample: object, key: str = "") -> str:
    """Return a digest of a sample that is another one if its fields come in another order.

    It is the one by which a resumed conversion knows its source.
    """
    digest = SourceDigest()
    digest.add(key, contents(sample))
    return digest.hexdigest()


def in_process_with(hash_seed: str, function: Callable[..., _T], *args: Any) -> _T:  # noqa: ANN401
    """Return the result of a function that a new process with this PYTHONHASHSEED calls."""
    import loky

    pool = loky.ProcessPoolExecutor(1, env={"PYTHONHASHSEED": hash_seed})
    try:
        result: _T = pool.submit(function, *args).result()
        return result
    finally:
        pool.shutdown(kill_workers=True)  # it may hang
