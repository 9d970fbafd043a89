"""Measure work whose result is a figure: seconds, bytes, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from statistics import median
from typing import Any

from benchmarks.corpus import Corpus
from benchmarks.peers.figures import FASTEST, OURS
from benchmarks.peers.plan import Plan, in_rounds
from benchmarks.peers.results import Findings
from benchmarks.peers.running import JobError
from benchmarks.peers.system import Settings, System
from benchmarks.processes import Memory

__all__ = [
    "formats",
    "load",
    "memory",
    "open_many",
    "read",
    "search",
    "take_search",
    "turns",
    "write",
]

_TRIED_AGAIN = 3
"""Settings of each loader that are tried once more."""

_READ = {"raw": ("cold", "order", "shuffled", "random"), "decoded": ("decoded",)}
"""What is read by each method of `System`."""


def write(plan: Plan) -> None:
    """Write both corpora with every system that has a format of its own."""
    for label, corpus in plan.corpora():
        for number, system in in_rounds(plan.sizes.write_rounds, list(plan.writers(label))):
            folder = plan.folder(system, corpus)
            about = {"corpus": label, "system": system, "round": number}
            given = plan.to_write(corpus, folder)
            job = partial(plan.runner.job, "writing:write", system, given=given)
            if plan.runner.attempt("write", about, job) is not None:
                plan.wrote(folder)


def read(plan: Plan) -> None:
    """Read without loaders, in one process: cold, in order, shuffled, at random, decoded."""
    for label, corpus in plan.corpora():
        readers = {**plan.offering(System.raw, label), **plan.offering(System.decoded, label)}
        for number, system in in_rounds(plan.rounds(label), list(readers)):
            about = {"corpus": label, "system": system, "round": number}
            plan.runner.attempt("read", about, partial(_read, plan, system, corpus))


def _read(plan: Plan, system: str, corpus: Corpus) -> dict[str, Any]:
    given = plan.given(corpus, plan.dataset(system, corpus))
    methods = plan.systems[system].takes_part_in
    works = [work for method, works in _READ.items() if method in methods for work in works]
    more = {"shortest_s": plan.sizes.shortest_s / 2, "works": works}
    return plan.runner.job("reading:read", system, given={**given, **more})


def search(plan: Plan) -> None:
    """Find the settings with which each loader is fastest.

    All are tried once, unless an earlier run did so, and then the fastest of them once more: a
    machine that others use too makes one try a throw of dice between settings that are alike.
    """
    if not plan.sizes.search:
        return
    for label, corpus in plan.corpora():
        for system, adapter in plan.offering(System.loader, label).items():
            known = plan.fastest(system, label)
            every = adapter.settings(plan.sizes.cores)
            _try(plan, system, label, corpus, [each for each in every if each not in known])
            _try(plan, system, label, corpus, plan.fastest(system, label)[:_TRIED_AGAIN])


def _try(plan: Plan, system: str, label: str, corpus: Corpus, every: Sequence[Settings]) -> None:
    for settings in every:
        about = {"corpus": label, "system": system, "settings": settings.to_dict()}
        job = partial(_load, plan, system, corpus, settings, 0.0)
        found = plan.runner.attempt("search", about, job)
        if found is not None:
            plan.tried(system, label, settings, found["wall_s"])


def take_search(plan: Plan, earlier: Findings) -> None:
    """Take what another run's search has found, and keep its findings with this run's."""
    for each in earlier.of("search"):
        plan.runner.keep("search", each)
        settings = Settings(**each["settings"])
        plan.tried(each["system"], each["corpus"], settings, each["found"]["wall_s"])


def load(plan: Plan) -> None:
    """Load shuffled epochs of padded batches, with the best settings of each system."""
    for label, corpus in plan.corpora():
        systems = list(plan.offering(System.loader, label))
        _rounds(plan, "load", label, corpus, plan.rounds(label), systems)


def turns(plan: Plan) -> None:
    """Load with only AudioMDB, the fastest bare loop and the fastest peers, taking turns.

    A round of everybody takes minutes, in which a machine that others use too changes by more than
    these differ.
    """
    label, corpus = "speech", plan.speech(plan.sizes.utterances)
    loaders = plan.offering(System.loader, label)
    few = [name for name in loaders if name in (FASTEST, OURS)]
    if len(few) == 2:
        few += plan.rivals(label)
        _rounds(plan, "turns", label, corpus, plan.sizes.turns, few)


def _rounds(
    plan: Plan, work: str, label: str, corpus: Corpus, rounds: int, systems: Sequence[str]
) -> None:
    for number, system in in_rounds(rounds, systems):
        settings = plan.settings(system, label)
        about = {
            "corpus": label,
            "system": system,
            "round": number,
            "settings": settings.to_dict(),
        }
        job = partial(_load, plan, system, corpus, settings, plan.sizes.shortest_s)
        plan.runner.attempt(work, about, job)


def _load(
    plan: Plan, system: str, corpus: Corpus, settings: Settings, shortest_s: float
) -> dict[str, Any]:
    given = plan.given(corpus, plan.dataset(system, corpus))
    more = {"settings": settings.to_dict(), "shortest_s": shortest_s, "passes": plan.sizes.passes}
    return plan.runner.job("loading:load", system, given={**given, **more})


def memory(plan: Plan) -> None:
    """Measure the memory of all processes of a loader; apart, since this takes processor time."""
    label, corpus = "speech", plan.speech(plan.sizes.utterances)
    seconds = {"seconds": 2 + plan.sizes.shortest_s}
    idle = partial(_watched, plan, "loading:idle", "", seconds)
    plan.runner.attempt("memory", {"corpus": label, "system": "torch"}, idle)
    for system in plan.watched():
        settings = plan.settings(system, label).to_dict()
        about: dict[str, Any] = {"corpus": label, "system": system, "settings": settings}
        try:
            given = plan.given(corpus, plan.dataset(system, corpus))
        except JobError:
            continue  # was reported where it was written
        given = {
            **given,
            "settings": settings,
            "shortest_s": plan.sizes.shortest_s,
            "passes": plan.sizes.passes,
        }
        job = partial(_watched, plan, "loading:load", system, given)
        plan.runner.attempt("memory", about, job)


def _watched(plan: Plan, job: str, system: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Highest memory of a job's processes, and what it is made of once they are at work."""
    seen: list[Memory] = []
    plan.runner.job(job, system, watch=seen.append, given=given)
    late = [asdict(each) for each in seen[len(seen) // 2 :]]
    parts = ("total_bytes", "anonymous_bytes", "file_bytes", "shared_bytes")
    medians = {part: median(each[part] for each in late) / 2**20 for part in parts}
    return {
        "peak_mib": max(each.total_bytes for each in seen) / 2**20,
        **{part.replace("_bytes", "_mib"): value for part, value in medians.items()},
        "processes": max(each.processes for each in seen),
    }


def open_many(plan: Plan) -> None:
    """Open datasets of very many samples, each after a small one, so that imports do not count."""
    offered = plan.offering(System.write_tiny, "speech")
    able = [system for system, each in offered.items() if each.kind in plan.sizes.watched]
    place = plan.work / "tiny"
    # The smaller ones by one process; the largest would leave a job too little time.
    together = [(1000, *plan.sizes.tiny[:1]), *((samples,) for samples in plan.sizes.tiny[1:])]
    for system, sizes in product(able, together):
        folders = {place / f"{system}-{samples}": samples for samples in sizes}
        given: dict[str, Any] = {
            "folders": {str(path): n for path, n in folders.items() if not path.exists()}
        }
        if given["folders"]:
            about: dict[str, Any] = {"system": system, "samples": max(sizes)}
            job = partial(plan.runner.job, "opening:write_tiny", system, given=given)
            plan.runner.attempt("prepare", about, job)
    for samples in plan.sizes.tiny:
        for number, system in in_rounds(plan.sizes.write_rounds, able):
            folder, few = place / f"{system}-{samples}", place / f"{system}-1000"
            if folder.exists() and few.exists():
                about = {"system": system, "samples": samples, "round": number}
                given = {"folder": str(folder), "tried": str(few)}
                job = partial(plan.runner.job, "opening:open_first", system, given=given)
                plan.runner.attempt("open", about, job)


def formats(plan: Plan) -> None:
    """Measure one corpus in several formats: bytes, decoding and loading by AudioMDB."""
    cases: dict[str, tuple[str, str | None]] = {each: (each, None) for each in plan.sizes.formats}
    cases["flac, converted to wav"] = ("flac", "wav")
    made = {}
    for label, (audio_format, stored_as) in cases.items():
        corpus = plan.speech(plan.sizes.utterances, audio_format)
        folder = plan.work / "datasets" / f"format-{label.replace(', ', '-').replace(' ', '-')}"
        given = {**plan.given(corpus, folder), "audio_format": stored_as}
        about: dict[str, Any] = {"format": label, "part": "write"}
        job = partial(plan.runner.job, "formats:write", "audiomdb", given=given)
        if plan.runner.attempt("format", about, job) is not None:
            made[label] = plan.given(corpus, folder)
    settings = plan.settings("audiomdb", "speech").to_dict()
    for number, label in in_rounds(plan.sizes.rounds, list(made)):
        given = {**made[label], "shortest_s": plan.sizes.shortest_s / 2}
        for part, name, more in (
            ("decode", "reading:read", {"works": ["decoded"]}),
            ("load", "loading:load", {"settings": settings, "passes": plan.sizes.passes}),
        ):
            about = {"format": label, "part": part, "round": number}
            job = partial(plan.runner.job, name, "audiomdb", given={**given, **more})
            plan.runner.attempt("format", about, job)
