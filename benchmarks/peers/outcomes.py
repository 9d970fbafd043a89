"""Measure work whose result is an outcome: what comes back, what is lost, what is reported."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from benchmarks.corpus import Corpus
from benchmarks.peers.jobs.damaging import damage as spoil
from benchmarks.peers.plan import Plan
from benchmarks.peers.running import JobError
from benchmarks.peers.system import Settings

__all__ = ["cover", "damage", "resume"]


def resume(plan: Plan) -> None:
    """Stop in the middle of an epoch and resume, with the same workers and with one more.

    AudioMDB also many times at random places, with other ranks, workers and threads each time.
    """
    corpus = plan.speech(plan.sizes.few)
    for system in plan.watched():
        before = plan.settings(system, "speech")
        for what, after in (("same", before), ("one more", _one_more(before))):
            about = {"system": system, "with": what, "settings": after.to_dict()}
            job = partial(_interrupted, plan, system, corpus, before, after)
            found = plan.runner.attempt("resume", about, job)
            if found is None or "not_offered" in found:
                break  # there is no state at all
    if "audiomdb" in plan.systems:
        about = {"system": "audiomdb"}
        plan.runner.attempt("interrupt", about, partial(_at_random, plan, corpus=corpus))


def _at_random(plan: Plan, corpus: Corpus) -> dict[str, Any]:
    folder = plan.dataset("audiomdb", corpus)
    given = {"folder": str(folder), "times": plan.sizes.interruptions, "seed": 1}
    return plan.runner.job("interrupting:interrupt", "audiomdb", given=given)


def _interrupted(
    plan: Plan, system: str, corpus: Corpus, before: Settings, after: Settings
) -> dict[str, Any]:
    folder = plan.dataset(system, corpus)
    given = {"folder": str(folder), "kept": str(plan.work / f"state-{system}.pt")}
    half = max(1, len(corpus.paths) // 16)
    more: dict[str, Any] = {"settings": before.to_dict(), "batches": half}
    stopped = plan.runner.job("resuming:interrupt", system, given={**given, **more})
    if "not_offered" in stopped:
        return stopped
    more = {"settings": after.to_dict(), "corpus": str(corpus.folder)}
    return plan.runner.job("resuming:resume", system, given={**given, **more})


def _one_more(settings: Settings) -> Settings:
    return Settings(
        workers=settings.workers + 1 if settings.workers else 0,
        threads=settings.threads + 1 if settings.threads else 0,
        decoder=settings.decoder,
    )


def cover(plan: Plan) -> None:
    """Read an epoch over ranks and workers, whose numbers do not divide the number of clips.

    AudioMDB also in each of its modes, with fewer clips than ranks, too.
    """
    corpus = plan.digits(plan.sizes.few)
    for system, adapter in plan.watched().items():
        if not adapter.splits:
            continue
        chosen = plan.settings(system, "digits").to_dict()
        for ranks, workers in plan.sizes.topologies:
            about = {"system": system, "ranks": ranks, "workers": workers}
            settings = {**chosen, "workers": workers}
            plan.runner.attempt(
                "cover", about, partial(_covered, plan, system, corpus, ranks, settings)
            )

    if "audiomdb" in plan.systems:
        for ranks in plan.sizes.cover_ranks:
            about = {"system": "audiomdb", "ranks": ranks}
            plan.runner.attempt("cover modes", about, partial(_covered_by_modes, plan, ranks))


def _covered_by_modes(plan: Plan, ranks: int) -> dict[str, Any]:
    corpora = [plan.digits(clips) for clips in plan.sizes.cover_clips]
    datasets = [plan.given(corpus, plan.dataset("audiomdb", corpus)) for corpus in corpora]
    given = {"datasets": datasets, "workers": plan.sizes.cover_workers, "ranks": ranks}
    return plan.runner.job("covering_modes:cover", "audiomdb", given=given)


def _covered(
    plan: Plan, system: str, corpus: Corpus, ranks: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    given = plan.given(corpus, plan.dataset(system, corpus))
    more = {"settings": settings, "ranks": ranks}
    return plan.runner.job("covering:cover", system, given={**given, **more})


_DAMAGES = (
    ("flip", "speech", "flip"),
    ("flip, WAV", "digits", "flip"),
    ("truncate", "digits", "truncate"),
    ("delete", "digits", "delete"),
)
"""Name, corpus and what is done. FLAC has checksums of its own, WAV has none."""


def damage(plan: Plan) -> None:
    """Read datasets that were damaged, and datasets whose writer was killed."""
    corpora = {"speech": plan.speech(plan.sizes.few), "digits": plan.digits(plan.sizes.few)}
    writers = plan.writers("speech")
    for system in plan.watched():
        if system not in writers:
            continue
        for name, corpus, how in _DAMAGES:
            job = partial(_damaged, plan, system, corpora[corpus], how)
            plan.runner.attempt("damage", {"system": system, "how": name}, job)
        job = partial(_killed, plan, system, corpora["speech"])
        plan.runner.attempt("damage", {"system": system, "how": "kill"}, job)


def _damaged(plan: Plan, system: str, corpus: Corpus, how: str) -> dict[str, Any]:
    # A folder that nobody has seen before: some readers keep caches by path.
    copy = _fresh(plan, f"{system}-{corpus.folder.name}-{how}")
    where = spoil(plan.systems[system], corpus, plan.dataset(system, corpus), copy, how)
    return {**where, **_judged(plan, system, corpus, copy)}


def _fresh(plan: Plan, name: str) -> Path:
    """A path below a folder that was not used in any run."""
    (plan.work / "damaged").mkdir(parents=True, exist_ok=True)
    return Path(mkdtemp(prefix=f"{name}-", dir=plan.work / "damaged")) / "dataset"


def _judged(plan: Plan, system: str, corpus: Corpus, folder: Path) -> dict[str, Any]:
    settings = {**plan.settings(system, "speech").to_dict(), "workers": 0}
    given = {**plan.given(corpus, folder), "settings": settings}
    try:
        return plan.runner.job("damaging:judge", system, given=given)
    except JobError as error:
        if error.signalled is None:
            raise
        return {"signal": error.signalled}


def _killed(plan: Plan, system: str, corpus: Corpus) -> dict[str, Any]:
    """Kill a writer once half of the bytes are there; read what there is; write again."""
    folder = _fresh(plan, f"{system}-killed")
    given = plan.given(corpus, folder)

    def half_done() -> bool:
        return _bytes_below(folder.parent, folder.name) >= corpus.bytes / 2

    to_write = plan.to_write(corpus, folder)
    done = plan.runner.job("writing:write", system, kill_when=half_done, given=to_write)
    if done:
        return {"not_killed": "it was done before half of its bytes were seen"}
    read = _judged(plan, system, corpus, folder)
    again = plan.runner.job("damaging:write_again", system, given=given)
    return {"read": read, "again": again, "read_again": _judged(plan, system, corpus, folder)}


def _bytes_below(folder: Path, beginning: str) -> int:
    """Bytes below those entries of a folder whose names begin in some way."""
    total = 0
    for entry in folder.glob(f"{beginning}*"):
        for path in entry.rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() else 0
            except OSError:
                continue  # it has just got its final name
    return total
