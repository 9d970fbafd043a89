"""Tables of orders: padding of batches by seconds, quality of shuffling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.peers.markdown import header, heading, row
from benchmarks.peers.results import Findings

__all__ = ["LHOTSE", "cases", "padding", "shuffling"]

LHOTSE = "lhotse-buckets"
_CLIPS = {"speech": "of the corpus", "synthetic": "of 1 to 20 s"}


def padding(findings: Findings) -> Iterator[str]:
    """Batches by seconds."""
    if not findings.of("padding"):
        return
    yield from heading("Padding of batches by seconds")
    yield "Durations alone. Batches of as many seconds and from as many buckets; clips times the"
    yield "longest one are a batch's padded seconds. Padding: of these, what no clip has. Fill: of"
    yield "what all batches may hold. Over: batches with more than they may hold. Slots: batches of"
    yield "one step, over all ranks, which AudioMDB fills together; lhotse draws each by itself,"
    yield "so its padding is that of any number of ranks."
    yield ""
    columns = ("clips", "s of a batch", "buckets", "system", "slots", "batches", "padding", "fill")
    yield from header(*columns, "over")
    for clips, what in _CLIPS.items():
        found = [
            (each["system"], each["found"], case)
            for each in findings.of("padding", clips=clips)
            for case in each["found"]["cases"]
        ]
        for system, whole, case in sorted(found, key=lambda each: each[2]["buckets"]):
            yield row(
                f"{whole['clips']:,} {what}",
                f"{whole['max_seconds']:.0f}",
                str(case["buckets"]),
                _name(findings, system),
                str(case.get("slots", "")),
                f"{case['batches']:.0f}",
                f"{100 * case['padding']:.1f} %",
                f"{100 * case['fill']:.1f} %",
                f"{case['over']:.0f}",
            )


def cases(findings: Findings, work: str, system: str, **about: str) -> list[dict[str, Any]]:
    """What was found of a system, a dict for each case that was looked at."""
    found = findings.of(work, system=system, **about)
    return [case for each in found for case in each["found"].get("cases", [])]


def shuffling(findings: Findings) -> Iterator[str]:
    """Quality of shuffling."""
    found = [
        (system, case)
        for system in findings.systems("shuffle")
        for case in cases(findings, "shuffle", system)
    ]
    if not found:
        return
    yield from heading("Quality of shuffling")
    yield "Orders alone, 256 shards of 1000 clips. Both keep some shards at hand; py1e's block is"
    yield "as many clips as lie in them. Shift: root mean square of how far clips are moved from"
    yield "where they were without mixing, in shards. Left: 1 less the correlation of the ranks of"
    yield "both places, in millionths. Share: how much of a batch of 64 comes from one shard, that"
    yield "with the most. At hand: shards from the first clip of each to its last, on average, and"
    yield "the most at once."
    yield ""
    columns = ("shards", "system", "shift", "left", "share", "at hand", "at most")
    yield from header(*columns)
    for system, case in sorted(found, key=lambda each: int(each[1]["alive"])):
        yield row(
            str(case["alive"]),
            _name(findings, system),
            f"{case['shift']:.2f}",
            f"{1e6 * (1 - case['correlation']):.0f}",
            f"{100 * case['largest_share']:.1f} %",
            f"{case['mean_alive']:.1f}",
            str(case["most_alive"]),
        )


def _name(findings: Findings, system: str) -> str:
    """Of the method that is compared, which is not always the system's."""
    named = {LHOTSE: "lhotse, DynamicBucketingSampler", "mosaic": "mosaicml-streaming, py1e"}
    return named.get(system, findings.name(system))
