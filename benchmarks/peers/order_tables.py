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
    yield "From durations alone, with as many seconds and buckets for both systems. The padded"
    yield "seconds of a batch are its number of clips times its longest clip. Padding: the share of"
    yield "these seconds that no clip fills. Fill: their share of what all batches may hold. Over:"
    yield "batches that exceed what they may hold. Slots: batches of one step, over all ranks."
    yield "AudioMDB fills them together; lhotse draws each by itself, so its padding is the same"
    yield "for any number of ranks."
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
    yield "From orders alone, of 256 shards of 1000 clips. Both systems keep some shards at hand;"
    yield "py1e's block is as many clips as these shards hold. Shift: root mean square of the"
    yield "distance, in shards, by which mixing moves a clip. Left: 1 minus the correlation of the"
    yield "ranks of its places with and without mixing, in millionths. Share: the largest share of"
    yield "a batch of 64 that comes from one shard. At hand: number of shards that are between"
    yield "their first and their last clip at a time, on average and at most."
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
