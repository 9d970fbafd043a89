"""Five epochs with room for half of the dataset: what is fetched again, by rule and by library.

Each library reads in an order of its own, so each is compared with the rules for the order in which
it gave out the samples. What counts is what comes after each shard's first time, which no rule can
save: where every epoch visits everything once, that is what is fetched in epochs 2 to 5.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from audiomdb.shards import DatasetReader
from benchmarks.belady import belady, lru, pinning
from benchmarks.remote_cell import Cell
from benchmarks.remote_setup import (
    BYTES_PER_SECOND,
    OURS,
    Contender,
    Remote,
    Uploaded,
    failure,
)

__all__ = ["budget"]

_EPOCHS = 5
_STEP_S = 0.04
_PREFETCH = 4
"""What S3Retriever does unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class _Order:
    """How epochs are read.

    Attributes:
        name: For rows.
        title: For readers.
        shuffle: Anew in each epoch.
        at_once: Shards that AudioMDB mixes at a time.
        options: What its adapter is told.
    """

    name: str
    title: str
    shuffle: bool
    at_once: int
    options: dict[str, Any] = field(default_factory=dict)


_ORDERS = (
    _Order(name="reshuffled", title="reshuffled", shuffle=True, at_once=5),
    _Order(name="stored", title="stored order", shuffle=False, at_once=1),
)
_MIXTURE = _Order(
    name="mixture",
    title="a fifth of the dataset as often as all the rest",
    shuffle=True,
    at_once=10,
    options={"often": 0.2},
)


def budget(remote: Remote) -> None:
    """Reshuffled in each epoch, in stored order, and mixed by weights."""
    for order in _ORDERS:
        for contender in remote.contenders:
            _run(remote, contender, order)
    if OURS in remote.contenders:
        _run(remote, OURS, _MIXTURE)


def _run(remote: Remote, contender: Contender, order: _Order) -> None:
    dataset = remote.dataset(contender)
    row = f"budget.{order.name}"
    title = f"half the room, {order.title}: datasets fetched again in {_EPOCHS} epochs"
    passed, epochs, note = _read(remote, contender, dataset, order)
    if note:
        remote.keep(Cell(row=row, title=title, who=contender.name, note=note))
        return
    again = passed[-1] - dataset.bytes
    by_epoch = [later - earlier for earlier, later in zip([0, *passed], passed, strict=False)]
    facts = {f"epoch_{n + 1}": size / dataset.bytes for n, size in enumerate(by_epoch)}
    remote.keep(
        Cell(
            row=row,
            title=title,
            who=contender.name,
            values=[again / dataset.bytes],
            facts=facts,
        )
    )
    rules = _rules(remote, dataset, contender, epochs, order)
    goals = {"Belady beside prefetch": 1.03, "pinning beside prefetch": 1.0}
    for rule, fetched in rules.items():
        remote.keep(
            Cell(
                row=f"{row}.over {rule}",
                title=f"half the room, {order.title}: fetched again over {rule}",
                who=contender.name,
                values=[again / fetched],
                at_most=goals.get(rule) if contender is OURS else None,
                facts={"rule": fetched / dataset.bytes},
            )
        )


def _read(
    remote: Remote, contender: Contender, dataset: Uploaded, order: _Order
) -> tuple[list[int], list[list[str]], str]:
    """Bytes passed after each epoch and the keys of each; else what went wrong."""
    task = remote.task(
        contender,
        dataset,
        remote.cache(),
        budget=dataset.bytes // 2,
        shuffle=order.shuffle,
        epochs=_EPOCHS,
        step_s=_STEP_S,
        say_keys=True,
        options=order.options,
    )
    remote.narrow(2 * BYTES_PER_SECOND)
    passed: list[int] = []
    epochs: list[list[str]] = []
    with remote.reading(contender, task) as (reader,):
        for number in range(_EPOCHS):
            reader.go()
            event = reader.result()
            if event["event"] != "epoch":
                return passed, epochs, f"epoch {number + 1}: {failure(event)}"
            passed.append(remote.quiet())
            epochs.append(event["order"])
    return passed, epochs, ""


def _rules(
    remote: Remote,
    dataset: Uploaded,
    contender: Contender,
    epochs: Sequence[Sequence[str]],
    order: _Order,
) -> dict[str, int]:
    """Bytes that rules fetch again, after each shard's first time."""
    shard_of, sizes = _shards(remote, dataset, contender)
    reads = [shard_of[key] for keys in epochs for key in keys]
    full = dataset.bytes // 2
    left = full - _PREFETCH * sum(sizes) // len(sizes)
    under_way = order.at_once * max(sizes)
    found = {
        "Belady, whole budget": belady(reads, sizes, full),
        "LRU, whole budget": lru(reads, sizes, full),
    }
    if contender is OURS:
        found |= {
            "Belady beside prefetch": belady(reads, sizes, left),
            "pinning, whole budget": pinning(reads, sizes, full, workspace=under_way),
            "pinning beside prefetch": pinning(reads, sizes, left, workspace=under_way),
        }
    return {rule: fetched - dataset.bytes for rule, fetched in found.items()}


def _shards(
    remote: Remote, dataset: Uploaded, contender: Contender
) -> tuple[dict[str, int], list[int]]:
    """The shard of each key, and the size of each shard."""
    if contender is OURS:
        with DatasetReader.open(dataset.folder) as reader:
            keys = list(reader.index["__key__"])
            counts = reader.counts
            sizes = [entry.bytes for entry in reader.metadata.shards]
    else:
        index = json.loads((dataset.folder / "index.json").read_text(encoding="utf-8"))
        keys = [path.stem for path in remote.corpus.paths]
        if "shards" in index:
            counts = [shard["samples"] for shard in index["shards"]]
            sizes = [shard["raw_data"]["bytes"] for shard in index["shards"]]
        else:
            counts = [chunk["chunk_size"] for chunk in index["chunks"]]
            sizes = [dataset.sizes[chunk["filename"]] for chunk in index["chunks"]]
    numbers = [number for number, count in enumerate(counts) for _ in range(count)]
    return dict(zip(keys, numbers, strict=True)), sizes
