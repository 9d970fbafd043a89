"""Tables of what was measured: loading, reading, writing, formats, opening."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.peers.figures import (
    COPY,
    DECODER,
    FILES,
    LMDB,
    OURS,
    OURS_AS_FLAC,
    Loading,
    loading,
)
from benchmarks.peers.markdown import header, heading, label, number, row, shown
from benchmarks.peers.results import Finding, Findings
from benchmarks.timing import Spread

__all__ = [
    "CORPORA",
    "decode_rate",
    "format_figure",
    "formats",
    "load_rate",
    "loaders",
    "opening",
    "reading",
    "searched",
    "writing",
]

CORPORA = {"speech": "utterances of 2 to 15 s, FLAC", "digits": "single digits, WAV of 7 kB"}


def loaders(findings: Findings, corpus: str, plots: str) -> Iterator[str]:
    """Training's view."""
    systems = findings.systems("load", corpus=corpus)
    if not systems:
        return
    yield from heading(f"Whole loader, {CORPORA[corpus]}")
    yield "Shuffled epochs of padded batches of 16 clips; the first epoch, which starts workers, is"
    yield "not counted. The ratios are to the bare loop of dr_flac in two threads. First batch:"
    yield "seconds from the end of `import torch`, including the import of the system itself. PSS:"
    yield "memory of all processes. Of files: the part of it that is pages of files, which the"
    yield "system may take back at any time."
    if turns := findings.of("turns", system=OURS, corpus=corpus):
        few = [n for n in findings.systems("turns", corpus=corpus) if findings.kind(n) != "floor"]
        yield f"The ratios of {', '.join(map(findings.name, few))} are those of"
        yield f"{len(turns)} rounds of these and the bare loop alone: a round of all systems takes"
        yield "minutes, during which the speed of the machine changes."
    yield ""
    yield f"![Loader rates]({plots}/loader-{corpus}.svg)"
    yield ""
    columns = ("system", "settings", "audio s/s", "ratio", "CPU s/audio h", "ratio")
    yield from header(*columns, "first batch s", "PSS MiB", "of files")
    figures = {system: loading(findings, system, corpus) for system in systems}
    ordered = sorted(systems, key=lambda name: -_rate(figures[name]))
    for system in ordered:
        found = figures[system]
        if found is None:
            continue
        memory = found.memory or {}
        yield row(
            findings.name(system),
            label(found.settings),
            shown(found.rate, "{:.0f}"),
            shown(found.ratio),
            shown(found.cpu),
            shown(found.cpu_ratio),
            shown(found.first_s),
            number(memory.get("peak_mib"), "{:.0f}"),
            number(memory.get("file_mib"), "{:.0f}"),
        )
    idle = findings.of("memory", system="torch", corpus=corpus)
    if idle:
        size = idle[0]["found"]["peak_mib"]
        yield from ("", f"A process that imports torch and does nothing has {size:.0f} MiB.")


def reading(findings: Findings, corpus: str, plots: str) -> Iterator[str]:
    """Encoded bytes, and decoding alone."""
    systems = findings.systems("read", corpus=corpus)
    if not systems:
        return
    yield from heading(f"One process, no loader, {CORPORA[corpus]}")
    yield "Encoded bytes in order, shuffled as the system shuffles, and by position at random; and"
    yield "all clips decoded to float32. Each clip is kept until the next is there, as loops do."
    yield "Figures are MB/s of encoded bytes and, for decoding, seconds of audio per second. The"
    yield "ratios in brackets are to py-lmdb; for cold reads, to plain files; for decoding, to bare"
    yield "dr_flac. py-lmdb may be listed twice: in a process as it is, and in one that keeps freed"
    yield "memory, as a process with AudioMDB does."
    yield ""
    yield f"![Reading]({plots}/reading-{corpus}.svg)"
    yield ""
    yield from header("system", "cold", "in order", "shuffled", "random", "decoded")
    for system in systems:
        cells = [_read_cell(findings, corpus, system, work, LMDB) for work in _WARM]
        cold = _read_cell(findings, corpus, system, "cold", FILES)
        decoded = _read_cell(findings, corpus, system, "decoded", DECODER)
        if any((cold, *cells, decoded)):
            yield row(findings.name(system), cold, *cells, decoded)


_WARM = ("order", "shuffled", "random")


def _read_cell(findings: Findings, corpus: str, system: str, work: str, floor: str) -> str:
    def value(found: Finding) -> float | None:
        part = found.get(work, {})
        if "wall_s" not in part:
            return None
        if work == "decoded":
            return float(found["seconds"]) / float(part["wall_s"])
        return float(part["amount"]) / float(part["wall_s"]) / 1e6

    found = findings.spread("read", system, value, corpus=corpus)
    if found is None:
        return ""
    ratio = findings.ratio("read", system, floor, value, corpus=corpus)
    return f"{found.median:.0f} ({shown(ratio, between=': ')})"


def writing(findings: Findings, corpus: str) -> Iterator[str]:
    """From files to a dataset."""
    systems = findings.systems("write", corpus=corpus)
    if not systems:
        return
    yield from heading(f"Writing, {CORPORA[corpus]}")
    yield "From loose files to a dataset whose files are synced. Size: bytes beyond those of the"
    yield "loose files. On disk: the same, with what the file system rounds up."
    yield ""
    yield from header(
        "system", "clips/s", "time, of cp -r", "CPU s", "size", "on disk", "files", "audio"
    )
    for system in systems:
        found = findings.of("write", system=system, corpus=corpus)[0]["found"]
        beyond, on_disk = (
            100 * (found[what] / found["source_bytes"] - 1) for what in ("bytes", "disk_bytes")
        )
        speed = findings.spread(
            "write", system, lambda each: each["clips"] / each["wall_s"], corpus=corpus
        )
        wall = findings.ratio("write", system, COPY, lambda each: each["wall_s"], corpus=corpus)
        cpu = findings.spread("write", system, lambda each: each["cpu_s"], corpus=corpus)
        yield row(
            findings.name(system),
            shown(speed, "{:.0f}"),
            shown(wall),
            shown(cpu),
            f"{beyond:+.1f} %",
            f"{on_disk:+.1f} %",
            str(found["files"]),
            "encoded anew" if system in ("lhotse", OURS_AS_FLAC) else "as it was",
        )


def formats(findings: Findings, plots: str) -> Iterator[str]:
    """What each format costs."""
    written = findings.of("format", part="write")
    if not written:
        return
    yield from heading("Formats of audio")
    yield "One corpus of speech, stored by AudioMDB: the cost of each format in disk space and"
    yield "processor time. Decoding is by one thread without a loader, from stored bytes to"
    yield "float32; ratios are to FLAC."
    yield ""
    yield f"![Formats]({plots}/formats.svg)"
    yield ""
    columns = ("format", "MB/audio h", "decoding, audio s/s", "ratio", "CPU s/audio h")
    yield from header(*columns, "whole loader, audio s/s", "ratio")
    for each in written:
        name, found = each["format"], each["found"]
        size = found["bytes"] / found["seconds"] * 3600 / 1e6
        decode = format_figure(findings, name, "decode", decode_rate)
        load = format_figure(findings, name, "load", load_rate)
        cpu = format_figure(findings, name, "decode", decode_cpu)
        yield row(
            name,
            f"{size:.0f}",
            shown(decode[0], "{:.0f}"),
            shown(decode[1]),
            shown(cpu[0]),
            shown(load[0], "{:.0f}"),
            shown(load[1]),
        )


def decode_rate(found: Finding) -> float:
    """Seconds of audio a second."""
    return float(found["seconds"]) / float(found["decoded"]["wall_s"])


def decode_cpu(found: Finding) -> float:
    """Seconds of processor for an hour of audio."""
    return float(found["decoded"]["cpu_s"]) / float(found["seconds"]) * 3600


def load_rate(found: Finding) -> float:
    """Seconds of audio a second, through the whole loader."""
    return float(found["seconds"]) / float(found["wall_s"])


def format_figure(
    findings: Findings,
    name: str,
    part: str,
    value: Any,  # noqa: ANN401
) -> tuple[Spread | None, Spread | None]:
    """A figure of a format, and its ratio to FLAC's."""
    ours, flac = (
        {each["round"]: value(each["found"]) for each in findings.of("format", format=f, part=part)}
        for f in (name, "flac")
    )
    ratios = [ours[number] / flac[number] for number in ours if number in flac]
    return (
        Spread.of(list(ours.values())) if ours else None,
        Spread.of(ratios) if ratios else None,
    )


def opening(findings: Findings) -> Iterator[str]:
    """Datasets of very many samples."""
    if not findings.of("open"):
        return
    yield from heading("Very many samples")
    yield "Each sample is a number and a short text, without audio. Seconds from opening to the"
    yield "first sample, in stored order and of a shuffled epoch, and the memory that this took."
    yield "Each library has been used on 1000 samples before."
    yield ""
    yield from header("samples", "system", "first s", "MiB", "first, shuffled s", "MiB")
    for samples in sorted({each["samples"] for each in findings.of("open")}):
        for system in findings.systems("open", samples=samples):
            cells = []
            for order in ("stored", "shuffled"):
                for name, form in (("wall_s", "{:.3f}"), ("grown_mib", "{:.0f}")):
                    cells.append(_open_cell(findings, samples, system, order, name, form))
            yield row(f"{samples:,}", findings.name(system), *cells)


def _open_cell(
    findings: Findings, samples: int, system: str, order: str, name: str, form: str
) -> str:
    def value(found: Finding) -> float | None:
        figure: float | None = found[order].get(name)
        return figure

    return shown(findings.spread("open", system, value, samples=samples), form)


def searched(findings: Findings) -> Iterator[str]:
    """Every setting that was tried."""
    if not findings.of("search"):
        return
    yield from heading("Settings that were compared")
    yield "Seconds of audio a second with each setting; the tables above use the best."
    yield ""
    yield from header("corpus", "system", "tried")
    for corpus in CORPORA:
        for system in findings.systems("search", corpus=corpus):
            tried: dict[str, list[str]] = {}
            for each in findings.of("search", system=system, corpus=corpus):
                if "wall_s" in each["found"]:
                    rates = tried.setdefault(label(each["settings"]), [])
                    rates.append(f"{load_rate(each['found']):.0f}")
            shown_as = (f"{settings}: {', '.join(rates)}" for settings, rates in tried.items())
            yield row(corpus, findings.name(system), "; ".join(shown_as))


def _rate(found: Loading | None) -> float:
    return found.rate.median if found is not None else 0.0
