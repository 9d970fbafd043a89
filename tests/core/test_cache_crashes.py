"""A process is killed right before a thing it does to a cache directory, be it what it may."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.shards import DatasetWriter, read_metadata
from tests.core.nodes import Node, smallest

SHARDS = 2

STRIDE = 5
"""Every fifth step: each of them takes a process. 1 tries all."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(0)
    with DatasetWriter(path, samples_per_shard=1) as writer:
        for number in range(SHARDS):
            writer.write(f"clip-{number:03d}", {"blob": rng.bytes(60_000)})
    return path


@pytest.fixture
def node(store: Path, tmp_path: Path) -> Iterator[Node]:
    node = Node(store, tmp_path)
    yield node
    node.close()


KINDS = pytest.mark.parametrize(
    "kind",
    [{"source": "ranges"}, {"source": "ranges", "least_piece": 10_000}, {"source": "directories"}],
    ids=["ranges", "pieces", "directories"],
)


@KINDS
def test_a_crash_at_any_point_leaves_a_usable_cache_directory(
    node: Node, kind: dict[str, Any]
) -> None:
    """Every reader finds what all crashed ones before it have left."""
    budget = smallest(node.store, readers=1, at_once=1)
    options = {"at_once": 1, "prefetch": 0, "max_bytes": budget, **kind}
    step = 0
    while True:
        started = node.start(kill_at=step, **options)
        status = node.command({"wait": started[0]})
        assert node.disk_bytes() <= budget
        if started[1].exists():
            break
        assert status == signal.SIGKILL
        step += STRIDE
    assert step > 50
    assert node.result(node.start(**options)).get("right") == SHARDS
    for folder in ("readers", "parts", "staging"):
        assert list((node.cache / folder).iterdir()) == []
    assert len(list((node.cache / "shards").iterdir())) == 1


@KINDS
def test_a_crash_anywhere_in_a_cache_of_its_own_is_recovered_from(
    node: Node, kind: dict[str, Any], tmp_path: Path
) -> None:
    """Nothing that was whole is fetched again, and nothing is left behind."""
    metadata = read_metadata(node.store)
    options = {"at_once": 1, "prefetch": 1, **kind}
    folder, step = node.cache, 0
    while True:
        node.cache = tmp_path / f"{folder.name}-{step}"
        node.log = tmp_path / f"log-{step}"
        started = node.start(kill_at=step, **options)
        node.command({"wait": started[0]})
        if started[1].exists():
            break
        whole = set()
        if (node.cache / "shards").exists():
            whole = {path.name[:5] for path in (node.cache / "shards").iterdir()}
        before = node.sent() if node.log.exists() else {}
        result = node.result(node.start(**options))
        assert result.get("right") == SHARDS, (step, result)
        for number, shard in enumerate(metadata.shards):
            path = f"{shard.path}/data.mdb"
            if f"{number:05d}" in whole:
                assert node.sent()[path] == before[path] == shard.bytes
        for name in ("readers", "parts", "staging", "failed"):
            assert list((node.cache / name).iterdir()) == [], (step, name)
        step += 2 * STRIDE
    assert step > 50
