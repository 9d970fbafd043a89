"""Clips in one process and thread: encoded bytes in order, shuffled and at random, and decoded."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import page_cache
from benchmarks.clock import now
from benchmarks.corpus import Corpus
from benchmarks.peers.jobs.writing import few_beside
from benchmarks.peers.registry import make
from benchmarks.peers.system import NotOfferedError, System

__all__ = ["read"]

_MOST_PASSES = 1000


def read(
    system: str, corpus: str, folder: str, shortest_s: float, works: list[str]
) -> dict[str, Any]:
    """Do some of the works, each until it has taken as long as asked for.

    Returns for each work the seconds of one pass, or why there is none.
    """
    source, target = Corpus(Path(corpus)), Path(folder)
    adapter = make(system)
    found: dict[str, Any] = {"clips": len(source.paths), "seconds": source.seconds}
    for work in works:
        try:
            found[work] = _WORKS[work](adapter, source, target, shortest_s)
        except NotOfferedError as error:
            found[work] = {"not_offered": str(error)}
        gc.collect()
    return found


def _cold(adapter: System, corpus: Corpus, folder: Path, _: float) -> dict[str, Any]:
    """Open and read everything once, none of it in the page cache.

    A dataset of few clips is read before, for what a library imports when it is first used.
    """
    beside = few_beside(folder)
    if beside.exists():
        _total(adapter.raw(beside, shuffle=False)())
    files = adapter.files(folder)
    page_cache.drop(files)
    left = page_cache.resident_bytes(files)
    begin = now()
    total = _total(adapter.raw(folder, shuffle=False)())
    took = now().since(begin)
    _check(total, corpus.bytes, adapter.keeps_bytes, adapter)
    return {"wall_s": took.wall_s, "cpu_s": took.cpu_s, "amount": total, "left_bytes": left}


def _ordered(adapter: System, corpus: Corpus, folder: Path, shortest_s: float) -> dict[str, Any]:
    clips = adapter.raw(folder, shuffle=False)
    done = _repeated(lambda: _total(clips()), shortest_s)
    _check(done["amount"], corpus.bytes, adapter.keeps_bytes, adapter)
    return done


def _shuffled(adapter: System, corpus: Corpus, folder: Path, shortest_s: float) -> dict[str, Any]:
    clips = adapter.raw(folder, shuffle=True)
    done = _repeated(lambda: _total(clips()), shortest_s)
    _check(done["amount"], corpus.bytes, adapter.keeps_bytes and adapter.exact_epochs, adapter)
    return done


def _random(adapter: System, corpus: Corpus, folder: Path, shortest_s: float) -> dict[str, Any]:
    order = np.random.default_rng(1).permutation(len(corpus.paths)).tolist()
    get = adapter.random(folder)
    done = _repeated(lambda: _total(map(get, order)), shortest_s)
    _check(done["amount"], corpus.bytes, adapter.keeps_bytes, adapter)
    return done


def _decoded(adapter: System, corpus: Corpus, folder: Path, shortest_s: float) -> dict[str, Any]:
    clips = adapter.decoded(folder)
    done = _repeated(lambda: _total(clips()), shortest_s)
    _check(done["amount"], corpus.frames, True, adapter)
    return done


_WORKS: dict[str, Callable[[System, Corpus, Path, float], dict[str, Any]]] = {
    "cold": _cold,
    "order": _ordered,
    "shuffled": _shuffled,
    "random": _random,
    "decoded": _decoded,
}


def _total(clips: Iterable[Any]) -> int:
    """Length of all, each kept until the next is there, as every loop over clips does.

    A copy that is dropped at once makes room for the next in memory that is still in the cache.
    """
    total = 0
    for clip in clips:
        total += len(clip)
    return total


def _repeated(work: Callable[[], int], shortest_s: float) -> dict[str, Any]:
    """Once for the page cache, then until it has taken long enough; figures of one pass."""
    work()
    passes = amount = 0
    begin = now()
    while True:
        amount += work()
        passes += 1
        took = now().since(begin)
        if took.wall_s >= shortest_s or passes == _MOST_PASSES:
            break
    return {
        "wall_s": took.wall_s / passes,
        "cpu_s": took.cpu_s / passes,
        "amount": amount / passes,
        "passes": passes,
    }


def _check(found: float, expected: int, exact: bool, adapter: System) -> None:
    if exact and found != expected:
        raise RuntimeError(f"{adapter.name} gave {found} of {expected}")
