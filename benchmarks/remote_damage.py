"""Connections that break, and bytes that are not what they were."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.remote_cell import Cell
from benchmarks.remote_setup import (
    LARGE_SHARD_BYTES,
    OURS,
    SHARD_BYTES,
    Contender,
    Remote,
    Uploaded,
    failure,
)

__all__ = ["cut", "flip"]

_CUT_AFTER = 2_000_000


def cut(remote: Remote) -> None:
    """Every connection breaks after 2 MB; small shards survive that, large ones must resume."""
    for shard_bytes, name in ((SHARD_BYTES, "small"), (LARGE_SHARD_BYTES, "large")):
        for contender in remote.contenders:
            _cut(remote, contender, shard_bytes, name)


def _cut(remote: Remote, contender: Contender, shard_bytes: int, name: str) -> None:
    dataset = remote.dataset(contender, shard_bytes)
    task = remote.task(contender, dataset, remote.cache(), expected=str(remote.expected))
    remote.narrow()
    remote.proxy.fail("reset", after=_CUT_AFTER)
    with remote.reading(contender, task, limit_s=120.0) as (reader,):
        reader.go()
        event = reader.result()
        passed = remote.quiet() if event["event"] == "epoch" else remote.proxy.stats.answer_bytes
    stats = remote.proxy.stats
    remote.proxy.heal()
    complete = event["event"] == "epoch" and event["keys"] == len(remote.corpus.entries)
    wrong = "" if complete else f"{event.get('samples', 0)} samples"
    note = wrong if event["event"] == "epoch" else failure(event)
    remote.keep(
        Cell(
            row=f"cut.{name}",
            title=f"connections reset every 2 MB, {name} shards: bytes over the dataset's",
            who=contender.name,
            values=[passed / dataset.bytes] if complete else [],
            at_most=1.05 if contender is OURS else None,
            note=note,
            facts={
                "shards": len(dataset.shards),
                "resets": stats.faults,
                "passed_over_dataset": passed / dataset.bytes,
                "damaged": event.get("damaged", 0),
                "wall_s": event.get("wall_s", float("nan")),
            },
        )
    )


def flip(remote: Remote) -> None:
    """One byte in the store, then one in the cache."""
    for contender in remote.contenders:
        dataset = remote.dataset(contender)
        name = dataset.shards[len(dataset.shards) // 2]
        _flip_in_store(remote, contender, dataset, name)
        _flip_in_cache(remote, contender, dataset, name)


def _flip_in_store(remote: Remote, contender: Contender, dataset: Uploaded, name: str) -> None:
    key = f"{dataset.prefix}/{name}"
    whole = remote.store.get(key)
    remote.store.put(key, _flipped(whole))
    try:
        event, facts = _read_all(remote, contender, dataset, remote.cache())
    finally:
        remote.store.put(key, whole)
    shown = Path(name).parent.name or Path(name).name
    named = shown in event.get("message", "") or name in event.get("message", "")
    remote.keep(
        _delivered(
            remote,
            "flip.store",
            "a byte flipped in the store: damaged clips delivered",
            contender,
            event,
            {**facts, "shard_named": named, "shard": shown},
        )
    )


def _flip_in_cache(remote: Remote, contender: Contender, dataset: Uploaded, name: str) -> None:
    cache = remote.cache()
    event, _ = _read_all(remote, contender, dataset, cache)
    facts: dict[str, Any] = {}
    if event["event"] == "epoch":
        cached = _cached_file(cache, dataset.sizes[name], remote.store, f"{dataset.prefix}/{name}")
        cached.chmod(0o644)
        cached.write_bytes(_flipped(cached.read_bytes()))
        event, facts = _read_all(remote, contender, dataset, cache)
        if contender is OURS:
            facts["verify"] = _verify(cached)
    remote.keep(
        _delivered(
            remote,
            "flip.cache",
            "a byte flipped in the cache: damaged clips delivered",
            contender,
            event,
            facts,
        )
    )


def _read_all(
    remote: Remote, contender: Contender, dataset: Uploaded, cache: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    task = remote.task(
        contender,
        dataset,
        cache,
        shuffle=False,
        expected=str(remote.expected),
        # The decoder that finds damage, and the digests that are compared on wish.
        options={"validate": True, "decoder": "soundfile"},
    )
    remote.narrow(None)
    with remote.reading(contender, task, limit_s=120.0) as (reader,):
        reader.go()
        event = reader.result()
    return event, {"samples": event.get("samples", 0)}


def _delivered(
    remote: Remote,
    row: str,
    title: str,
    contender: Contender,
    event: dict[str, Any],
    facts: dict[str, Any],
) -> Cell:
    ended = event["event"] in ("epoch", "error")
    samples = f"{event.get('samples', 0)} of {len(remote.corpus.entries)}"
    return Cell(
        row=row,
        title=title,
        who=contender.name,
        values=[event["damaged"]] if ended else [],
        at_most=0 if contender is OURS else None,
        note=f"no error, {samples} clips" if event["event"] == "epoch" else failure(event),
        facts=facts,
    )


def _flipped(content: bytes) -> bytes:
    """The same with its middle byte changed, which is audio."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


def _cached_file(cache: Path, size: int, store: Any, key: str) -> Path:  # noqa: ANN401
    """Where a shard lies in a cache: found by its content, whatever the library calls it."""
    content = store.get(key)
    for path in sorted(cache.rglob("*")):
        if path.is_file() and path.stat().st_size == size and path.read_bytes() == content:
            return path
    raise FileNotFoundError(f"nothing in {cache} is {key}")


def _verify(cached: Path) -> str:
    """What `audiomdb verify` says of the cache that a file lies in."""
    folder = next(parent for parent in cached.parents if (parent / "metadata.json").exists())
    program = [sys.executable, "-m", "audiomdb.cli", "verify", str(folder), "--json"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    try:
        problems = json.loads(done.stdout)["problems"]
    except (ValueError, KeyError):
        return f"exit {done.returncode}: {(done.stderr or done.stdout).strip()[-100:]}"
    files = {Path(problem["file"]).parent.name for problem in problems}
    return f"exit {done.returncode}, {', '.join(sorted(files)) or 'nothing found'}"
