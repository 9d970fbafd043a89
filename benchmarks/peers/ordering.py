"""Measure orders alone, without reading audio: padding, and quality of shuffling."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.peers.plan import Plan

__all__ = ["padding", "shuffle"]

_BUCKETS = (10, 20, 30)
_SLOTS = (1, 4, 8)
_SECONDS = 200.0
"""Seconds of a batch of synthetic clips."""

_ALIVE = (4, 8, 16)
_SHARDS = 256
_EACH = 1000


def padding(plan: Plan) -> None:
    """Compare batches by seconds with lhotse's: as many seconds and buckets, the same clips."""
    corpus = plan.speech(plan.sizes.utterances)
    mean = corpus.seconds / len(corpus.paths)
    cases: dict[str, dict[str, Any]] = {
        "speech": {"durations": str(corpus.folder), "max_seconds": 32 * mean},
        "synthetic": {"durations": plan.sizes.padded, "max_seconds": _SECONDS},
    }
    jobs: dict[str, tuple[str, dict[str, Any]]] = {
        "audiomdb": ("padding:ours", {"slots": _SLOTS}),
        "lhotse-buckets": ("padding:lhotse", {}),
    }
    for clips, given in cases.items():
        for system, (name, more) in jobs.items():
            if system not in plan.systems:
                continue
            both = {**given, **more, "buckets": _BUCKETS, "seeds": plan.sizes.write_rounds}
            job = partial(plan.runner.job, name, system, given=both)
            plan.runner.attempt("padding", {"system": system, "clips": clips}, job)


def shuffle(plan: Plan) -> None:
    """Compare orders with mosaicml-streaming's, with as many shards at hand."""
    jobs = {"audiomdb": "shuffling:ours", "mosaic": "shuffling:mosaic"}
    given = {
        "alive": _ALIVE,
        "shards": _SHARDS,
        "each": _EACH,
        "seeds": plan.sizes.seeds,
    }
    for system, name in jobs.items():
        if system in plan.systems:
            job = partial(plan.runner.job, name, system, given=given)
            plan.runner.attempt("shuffle", {"system": system}, job)
