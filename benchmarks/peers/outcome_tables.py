"""Tables of outcomes: resuming, coverage, damage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.peers.markdown import header, heading, number, row, short
from benchmarks.peers.results import Finding, Findings

__all__ = ["PLAIN", "coverage", "coverage_of_modes", "damage", "interruptions", "resuming"]

PLAIN = "DataLoader"
"""The mode of AudioMDB that, over several ranks, leaves clips out unless it is told otherwise."""


def resuming(findings: Findings) -> Iterator[str]:
    """Stopping and going on."""
    found = findings.of("resume")
    if not found:
        return
    yield from heading("Resuming in the middle of an epoch")
    yield "A run reads half of an epoch, saves its state and ends; another process resumes, once"
    yield "with the same number of workers or threads and once with one more. Seconds from the end"
    yield "of `import torch` to its first batch."
    yield ""
    yield from header("system", "goes on", "first batch s", "clips lost", "repeated", "order")
    for each in found:
        result = each["found"]
        name, how = findings.name(each["system"]), each["with"]
        if "not_offered" in result or "error" in result:
            said = result.get("not_offered") or f"raises {result['error']}"
            yield row(name, how, "", "", "", short(said))
            continue
        order = "the same" if result["same_order"] else "another"
        first = number(result["first_batch_s"], "{:.2f}")
        yield row(name, how, first, str(result["lost"]), str(result["repeated"]), order)


def interruptions(findings: Findings) -> Iterator[str]:
    """Many interruptions, with other worlds."""
    found = findings.of("interrupt")
    if not found:
        return
    yield ""
    yield "AudioMDB, interrupted at random. After each interruption other loaders continue, with 1"
    yield "to 4 ranks, 0 to 2 workers and 0 to 2 threads. Equal: interruptions after which the"
    yield "stream, up to the next interruption, was clip by clip that of an uninterrupted run with"
    yield "one rank."
    yield ""
    yield from header("mode", "interrupted", "equal", "clips", "epochs")
    for case in (case for each in found for case in each["found"]["cases"]):
        numbers = (case[name] for name in ("interrupted", "equal", "clips", "epochs"))
        yield row(case["mode"], *map(str, numbers))


def coverage(findings: Findings) -> Iterator[str]:
    """Epochs over ranks and workers."""
    if not findings.of("cover"):
        return
    yield from heading("An epoch over ranks and workers")
    yield "Clips lost and repeated in one epoch, over all ranks. If ranks have different numbers of"
    yield "batches, the fewest and the most are listed: training in lockstep would hang."
    yield ""
    cases = sorted({(each["ranks"], each["workers"]) for each in findings.of("cover")})
    yield from header("system", *(f"{ranks} x {workers}" for ranks, workers in cases))
    for system in findings.systems("cover"):
        cells = []
        for ranks, workers in cases:
            found = findings.of("cover", system=system, ranks=ranks, workers=workers)
            cells.append(_cover_cell(found[0]["found"]) if found else "failed")
        yield row(findings.name(system), *cells)


def coverage_of_modes(findings: Findings) -> Iterator[str]:
    """The same in each mode of AudioMDB."""
    found = findings.of("cover modes")
    if not found:
        return
    yield ""
    yield "AudioMDB in each of its modes, with 0 to 3 workers in a full run. By default a plain"
    yield "`DataLoader` over several ranks leaves out clips that these cannot share evenly, so that"
    yield "all make equally many batches; with `tail='pad'` it repeats some, marked. The"
    yield "`StreamingLoader` pads here. Repeats that are marked do not count."
    yield ""
    cases: dict[tuple[int, str], dict[int, dict[str, list[int]]]] = {}
    for each in found:
        for case in each["found"].get("cases", []):
            cells = cases.setdefault((case["clips"], case["mode"]), {})
            said = cells.setdefault(each["ranks"], {})
            said.setdefault(_cover_cell(case), []).append(case["workers"])
    ranks = sorted({each["ranks"] for each in found})
    yield from header("clips", "mode", *(f"{number} ranks" for number in ranks))
    for (clips, mode), cells in sorted(cases.items(), key=lambda each: each[0][0]):
        shown = [_by_workers(cells.get(number, {})) for number in ranks]
        yield row(str(clips), mode, *shown)


def _by_workers(said: Mapping[str, list[int]]) -> str:
    if len(said) < 2:
        return next(iter(said), "failed")
    parts = (f"{text} ({', '.join(map(str, each))} workers)" for text, each in said.items())
    return "; ".join(parts)


def _cover_cell(found: Finding) -> str:
    if "not_offered" in found:
        return "not offered"
    if found.get("hung"):
        return "hung"
    parts = [f"{found[what]} {what}" for what in ("lost", "repeated") if found[what]]
    fewest, most = found["fewest_batches"], found["most_batches"]
    if fewest != most:
        parts.append(f"{fewest} to {most} batches")
    return ", ".join(parts) or "each once"


def damage(findings: Findings) -> Iterator[str]:
    """What readers say of damage."""
    if not findings.of("damage"):
        return
    yield from heading("Damaged datasets and killed writers")
    yield "A bit flipped in the middle of a clip (FLAC has checksums of its own, WAV has none), a"
    yield "file cut off there, or that file deleted; and a writer killed after half of its bytes:"
    yield "what can be read then, and what after it was started again. The counts are clips that"
    yield "arrive right and wrong, of all. DATASET stands for the dataset's path."
    yield ""
    damaged = ("bit flipped, FLAC", "bit flipped, WAV", "cut off", "file gone")
    yield from header("system", *damaged, "killed, then read", "started again")
    for system in findings.systems("damage"):
        cells = []
        for how in ("flip", "flip, WAV", "truncate", "delete"):
            found = findings.of("damage", system=system, how=how)
            cells.append(_judged(found[0]["found"]) if found else "failed")
        killed = findings.of("damage", system=system, how="kill")
        result: Mapping[str, Any] = killed[0]["found"] if killed else {}
        cells.append(_judged(result["read"]) if "read" in result else "")
        again = result.get("again", {}).get("error")
        after = _judged(result["read_again"]) if "read_again" in result else ""
        cells.append(f"raises {short(again)}" if again else after)
        yield row(findings.name(system), *cells)


def _judged(found: Finding) -> str:
    if "not_offered" in found:
        return "not offered"
    if "signal" in found:
        return f"process ended by {found['signal']}"
    clips = found["clips"]
    parts = []
    if found["wrong"]:
        parts.append(f"**{found['wrong']} wrong**")
    parts.append(f"{found['right']} of {clips} right")
    said = f"; {short(found['error'])}" if "error" in found else "; nothing said"
    whole = found["right"] == clips and "error" not in found
    return "all right" if whole else ", ".join(parts) + said
