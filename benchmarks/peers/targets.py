"""What AudioMDB is meant to reach beside its peers, and whether a run shows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.peers.figures import (
    COPY,
    FILES,
    LMDB,
    OURS,
    OURS_AS_FLAC,
    TWINS,
    Value,
    beside,
    best,
    best_of,
    loading,
    rate,
)
from benchmarks.peers.measured_tables import decode_rate, format_figure, load_rate
from benchmarks.peers.order_tables import LHOTSE, cases
from benchmarks.peers.outcome_tables import PLAIN
from benchmarks.peers.results import Finding, Findings

__all__ = ["Target", "found_targets", "targets"]


_PYTHON = (
    "a sample costs the same Python whatever its size: its places in index and file, the checksum "
    "and the map of its head"
)

_WHY = {
    "speech: first batch, of the quickest peer's": (
        "AudioMDB's import makes so many objects that Python's next full garbage collection, of "
        "all that torch has made, falls into it"
    ),
    "speech: bytes in order, of py-lmdb": _PYTHON,
    "speech: bytes at random, of py-lmdb": _PYTHON,
    "speech: bytes shuffled without copies, of the best peer": _PYTHON,
    "PCM16 from stored bytes to float32, of FLAC": (
        "memory bounds the one, the processor the other, so that whoever else uses the machine "
        "takes more of the first"
    ),
    "digits: bytes on disk, of the smallest peer's": (
        "each clip has a head, a row of the index in its shard and another beside the shards, and "
        "a place in LMDB's pages; columns of a table take less"
    ),
}
"""Known reasons for targets that are missed."""


@dataclass(frozen=True, slots=True)
class Target:
    """One figure that should be reached.

    Attributes:
        what: The figure in words, for the table.
        value: The value found; None if it was not measured.
        bound: The value that should be reached.
        at_least: Whether a higher value is better.
        beside: The competitor or floor that the value is a ratio to.
    """

    what: str
    value: float | None
    bound: float
    at_least: bool
    beside: str

    @property
    def met(self) -> bool | None:
        """Whether the target is reached."""
        if self.value is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def targets(findings: Findings) -> Iterator[str]:
    """The table of targets."""
    found = [target for target in found_targets(findings) if target.value is not None]
    if not found:
        return
    yield from ("", "### Targets", "", "| what | found | target | beside | |")
    yield "| --- | --- | --- | --- | --- |"
    for target in found:
        bound = f"{'at least' if target.at_least else 'at most'} {target.bound:g}"
        met = "reached" if target.met else "**missed**"
        yield f"| {target.what} | {target.value:.2f} | {bound} | {target.beside} | {met} |"
    missed = [target.what for target in found if target.met is False and target.what in _WHY]
    if missed:
        yield ""
        yield from (f"- {what}: {_WHY[what]}." for what in missed)


def found_targets(findings: Findings) -> Iterator[Target]:
    """All targets, in the order of the page."""
    for corpus in ("speech", "digits"):
        yield from _loader(findings, corpus)
    yield from _loader_of_flac(findings)
    for corpus in ("speech", "digits"):
        yield from _reading(findings, corpus)
    yield from _writing(findings)
    yield from _storing(findings)
    yield from _formats(findings)
    yield from _padding(findings)
    yield from _shuffling(findings)
    yield from _outcomes(findings)


def _loader(findings: Findings, corpus: str) -> Iterator[Target]:
    systems = findings.systems("load", corpus=corpus)
    figures = {system: loading(findings, system, corpus) for system in systems}
    ours = figures.get("audiomdb")
    if ours is None:
        return
    others = {system: each for system, each in figures.items() if each is not None}
    ahead = {n: beside(findings, "audiomdb", n, rate, corpus) for n in others}
    speeds = {n: ratio.median for n, ratio in ahead.items() if ratio is not None}
    for what, bound, closest in (
        ("", 2.5 if corpus == "speech" else 1.0, best(findings, speeds, highest=False)),
        (" that is given the same decoder", 1.0, best_of(TWINS, speeds, highest=False)),
    ):
        if closest:
            text = f"{corpus}: whole loader, of the best peer{what}"
            yield Target(text, closest[1], bound, True, findings.name(closest[0]))
    if corpus == "speech":
        floor = "bare dr_flac, 2 threads"
        if ours.ratio and ours.cpu_ratio:
            yield Target(
                "speech: whole loader, of a bare loop", ours.ratio.median, 0.85, True, floor
            )
            yield Target(
                "speech: processor time, of a bare loop", ours.cpu_ratio.median, 1.2, False, floor
            )
        if ours.first_s:
            first = ours.first_s.median
            yield Target("speech: seconds to the first batch", first, 0.4, False, "")
            quickest = best(
                findings,
                {n: each.first_s.median if each.first_s else None for n, each in others.items()},
                highest=False,
            )
            if quickest:
                name = findings.name(quickest[0])
                yield Target(
                    "speech: first batch, of the quickest peer's",
                    first / quickest[1],
                    1.0,
                    False,
                    name,
                )
        if ours.memory:
            peaks = {n: each.memory["peak_mib"] for n, each in others.items() if each.memory}
            smallest = best(findings, dict(peaks), highest=False)
            if smallest:
                name = findings.name(smallest[0])
                share = ours.memory["peak_mib"] / smallest[1]
                yield Target("speech: memory, of the smallest peer's", share, 1.0, False, name)


def _loader_of_flac(findings: Findings) -> Iterator[Target]:
    """Of digits that were converted to FLAC: less disk, and more to decode."""
    systems = findings.systems("load", corpus="digits")
    ahead = {n: beside(findings, OURS_AS_FLAC, n, rate, "digits") for n in systems}
    speeds = {n: ratio.median for n, ratio in ahead.items() if ratio is not None}
    if closest := best(findings, speeds, highest=False):
        text = "digits as FLAC: whole loader, of the best peer"
        yield Target(text, closest[1], 1.0, True, findings.name(closest[0]))


def _reading(findings: Findings, corpus: str) -> Iterator[Target]:
    for work in ("order", "shuffled", "random"):
        if corpus == "speech" and work != "shuffled":
            ratio = findings.ratio("read", "audiomdb", LMDB, _speed(work), corpus=corpus)
            value = ratio.median if ratio else None
            what = "in order" if work == "order" else "at random"
            yield Target(f"speech: bytes {what}, of py-lmdb", value, 0.9, True, "py-lmdb")
        bound = 5.0 if corpus == "speech" else 1.0
        rivals = _medians(findings, corpus, work)
        ahead = best(findings, rivals, highest=True)
        ours = rivals.get("audiomdb-views")
        if ahead and ours:
            name = findings.name(ahead[0])
            what = {"order": "in order", "shuffled": "shuffled", "random": "at random"}[work]
            text = f"{corpus}: bytes {what} without copies, of the best peer"
            yield Target(text, ours / ahead[1], bound, True, name)
    if corpus == "speech":
        cold = _medians(findings, corpus, "cold")
        ahead = best(findings, cold, highest=True)
        ours = cold.get("audiomdb")
        if ahead and ours:
            name = findings.name(ahead[0])
            yield Target("speech: cold reads, of the best peer", ours / ahead[1], 1.0, True, name)
        ratio = findings.ratio("read", "audiomdb", FILES, _speed("cold"), corpus=corpus)
        value = ratio.median if ratio else None
        yield Target("speech: cold reads, of plain files", value, 1.0, True, "plain files")


def _writing(findings: Findings) -> Iterator[Target]:
    seconds = {
        system: findings.spread("write", system, lambda each: each["wall_s"], corpus="speech")
        for system in findings.systems("write", corpus="speech")
    }
    walls = {system: spread.median for system, spread in seconds.items() if spread}
    ours = walls.get("audiomdb")
    if not ours:
        return
    if "webdataset" in walls:
        share = ours / walls["webdataset"]
        yield Target("speech: writing, time of the plain tar's", share, 1.3, False, "webdataset")
    tars = ("webdataset", "lhotse", "loose")
    rivals = {system: wall for system, wall in walls.items() if system not in tars}
    quickest = best(findings, dict(rivals), highest=False)
    if quickest:
        name = findings.name(quickest[0])
        yield Target(
            "speech: writing, time of the quickest other's", ours / quickest[1], 1.0, False, name
        )
    ratio = findings.ratio("write", "audiomdb", COPY, lambda each: each["wall_s"], corpus="speech")
    if ratio:
        yield Target("speech: writing, time of cp -r", ratio.median, 1.5, False, "cp -r")


def _storing(findings: Findings) -> Iterator[Target]:
    sizes: dict[str, float | None] = {
        each["system"]: each["found"]["disk_bytes"]
        for each in findings.of("write", corpus="digits")
    }
    smallest = best(findings, sizes, highest=False)
    for system, corpus in ((OURS, "digits"), (OURS_AS_FLAC, "digits as FLAC")):
        mine = sizes.get(system)
        if smallest and mine:
            name = findings.name(smallest[0])
            text = f"{corpus}: bytes on disk, of the smallest peer's"
            yield Target(text, mine / smallest[1], 1.0, False, name)


def _formats(findings: Findings) -> Iterator[Target]:
    for part, value, bound, what in (
        ("decode", decode_rate, 8.0, "from stored bytes to float32"),
        ("load", load_rate, 3.0, "through the whole loader"),
    ):
        ratio = format_figure(findings, "flac, converted to wav", part, value)[1]
        if ratio:
            yield Target(f"PCM16 {what}, of FLAC", ratio.median, bound, True, "FLAC")


def _padding(findings: Findings) -> Iterator[Target]:
    """Ours over lhotse's, of the number of buckets where we are worst."""
    for clips in ("synthetic", "speech"):
        theirs = {case["buckets"]: case for case in cases(findings, "padding", LHOTSE, clips=clips)}
        ours = cases(findings, "padding", "audiomdb", clips=clips)
        for slots in sorted({case["slots"] for case in ours}):
            pairs = [
                (case, theirs[case["buckets"]])
                for case in ours
                if case["slots"] == slots and case["buckets"] in theirs
            ]
            # Few clips leave batches that are not full, and a batch of few has little padding:
            # of a corpus it is the number of batches that says what an epoch costs.
            what = "padding" if clips == "synthetic" else "batches"
            ratios = [mine[what] / other[what] for mine, other in pairs]
            if ratios:
                text = f"{clips} clips: {what} by seconds, {slots} slots, worst of the buckets"
                yield Target(text, max(ratios), 1.0, False, "lhotse")


def _shuffling(findings: Findings) -> Iterator[Target]:
    others = {case["alive"]: case for case in cases(findings, "shuffle", "mosaic")}
    for mine in cases(findings, "shuffle", "audiomdb"):
        alive = mine["alive"]
        if alive not in others:
            continue
        other = others[alive]
        text = f"shuffling over {alive} shards"
        shift = mine["shift"] / other["shift"]
        yield Target(f"{text}: shift", shift, 1.0, True, "py1e")
        # What mixing has taken away: correlations are near 1, and their ratio says nothing.
        left = (1 - mine["correlation"]) / (1 - other["correlation"])
        yield Target(f"{text}: 1 less the correlation", left, 1.0, True, "py1e")
        share = mine["largest_share"] / other["largest_share"]
        yield Target(f"{text}: largest share of a batch", share, 1.0, False, "py1e")


def _outcomes(findings: Findings) -> Iterator[Target]:
    """What has to hold everywhere: going on exactly, and each clip once."""
    stopped = cases(findings, "interrupt", "audiomdb")
    if stopped:
        equal, times = (sum(case[name] for case in stopped) for name in ("equal", "interrupted"))
        text = f"random interruptions after which the stream is the same, of {times}"
        yield Target(text, equal / times, 1.0, True, "a run that nobody stopped")
    # By default a plain DataLoader over several ranks leaves out what they cannot share.
    split = [case for case in cases(findings, "cover modes", "audiomdb") if case["mode"] != PLAIN]
    if split:
        bad = sum(
            bool(case["lost"] or case["repeated"]) or case["fewest_batches"] != case["most_batches"]
            for case in split
        )
        text = f"modes, ranks and workers without each clip once, of {len(split)}"
        yield Target(text, bad, 0.0, False, "")


def _speed(work: str) -> Value:
    def value(found: Finding) -> float | None:
        part = found.get(work, {})
        return float(part["amount"]) / float(part["wall_s"]) if "wall_s" in part else None

    return value


def _medians(findings: Findings, corpus: str, work: str) -> dict[str, float | None]:
    found = {}
    for system in findings.systems("read", corpus=corpus):
        spread = findings.spread("read", system, _speed(work), corpus=corpus)
        found[system] = spread.median if spread else None
    return found
