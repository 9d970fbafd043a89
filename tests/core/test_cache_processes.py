from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from audiomdb.cache import CacheOptions, RangeSource, ShardCache
from audiomdb.shards import DatasetWriter, read_metadata
from benchmarks.belady import lru
from tests.core.nodes import Node, smallest
from tests.core.programs.cache_reader import FolderStore

SHARDS = 12


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(0)
    with DatasetWriter(path, samples_per_shard=2) as writer:
        for number in range(2 * SHARDS):
            writer.write(f"clip-{number:03d}", {"blob": rng.bytes(60_000)})
    return path


@pytest.fixture
def node(store: Path, tmp_path: Path) -> Iterator[Node]:
    node = Node(store, tmp_path)
    yield node
    node.close()


def shard_bytes(store: Path) -> int:
    return read_metadata(store).shards[0].bytes


@pytest.mark.parametrize("least_piece", [None, 20_000], ids=["whole", "in pieces"])
def test_eight_cold_processes_fetch_each_shard_once(node: Node, least_piece: int | None) -> None:
    started = [
        # Slow enough for the last one to begin before the first is through and leaves.
        node.start(seed=i, at_once=3, prefetch=i % 3, least_piece=least_piece, pause_s=0.004)
        for i in range(8)
    ]
    results = [node.result(one) for one in started]
    assert [result.get("right") for result in results] == [SHARDS] * 8, results
    assert sum(result["fetched"] for result in results) == SHARDS
    metadata = read_metadata(node.store)
    sent = node.sent()
    assert sent.pop("metadata.json") == (node.store / "metadata.json").stat().st_size
    assert sent == {f"{shard.path}/data.mdb": shard.bytes for shard in metadata.shards}


@pytest.mark.parametrize("source", ["ranges", "directories"])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_all_processes_together_keep_to_the_limit_of_transfers(
    node: Node, workers: int, source: str
) -> None:
    started = [
        node.start(
            seed=i,
            at_once=3,
            prefetch=2,
            workers=workers,
            least_piece=20_000,
            pause_s=0.002,
            source=source,
        )
        for i in range(6)
    ]
    results = [node.result(one) for one in started]
    assert [result.get("right") for result in results] == [SHARDS] * 6, results
    assert min(workers, 2) <= node.most_transfers() <= workers


def test_the_smallest_budget_neither_deadlocks_nor_is_exceeded(node: Node) -> None:
    budget = smallest(node.store, readers=4, at_once=2)
    started = [
        node.start(seed=10 * i, epochs=2, at_once=2, prefetch=2, max_bytes=budget, pause_s=0.0005)
        for i in range(4)
    ]
    most = 0
    for one in started:
        while not one[1].exists():
            most = max(most, node.disk_bytes())
        assert node.result(one).get("right") == 2 * SHARDS
    assert 4 * shard_bytes(node.store) < most <= budget


def test_a_budget_one_byte_too_small_is_refused_with_the_minimum(node: Node) -> None:
    budget = smallest(node.store, readers=1, at_once=2)
    result = node.result(node.start(at_once=2, max_bytes=budget - 1))
    assert result["error"] == "CacheTooSmallError"
    assert f"max_cache_bytes={budget};" in result["text"]
    assert node.result(node.start(at_once=2, max_bytes=budget))["right"] == SHARDS


@pytest.mark.parametrize("least_piece", [None, 20_000], ids=["whole", "in pieces"])
def test_killed_readers_leave_a_cache_that_others_use(node: Node, least_piece: int | None) -> None:
    rng = random.Random(1)
    budget = smallest(node.store, readers=4, at_once=2) + 3 * shard_bytes(node.store)
    running: list[tuple[int, Path]] = []
    most = kills = 0
    while kills < 40:
        while len(running) < 4:
            running.append(
                node.start(
                    seed=rng.randrange(1000),
                    epochs=2,
                    prefetch=2,
                    max_bytes=budget,
                    pause_s=0.001,
                    least_piece=least_piece,
                )
            )
        for _ in range(rng.randrange(12)):
            most = max(most, node.disk_bytes())
        node.kill(running.pop(rng.randrange(4)))
        kills += 1
    assert [node.result(one).get("right") for one in running] == [2 * SHARDS] * 3
    assert most <= budget
    assert node.result(node.start(max_bytes=budget))["right"] == SHARDS
    assert list((node.cache / "readers").iterdir()) == []
    assert list((node.cache / "staging").iterdir()) == []
    assert list((node.cache / "parts").iterdir()) == []


@pytest.mark.parametrize("least_piece", [None, 20_000], ids=["whole", "in pieces"])
def test_killed_downloads_resume_and_whole_shards_are_kept(
    node: Node, least_piece: int | None
) -> None:
    rng = random.Random(2)
    kills = 0
    running: list[tuple[int, Path]] = []
    shards = node.cache / "shards"
    node.log.touch()

    def all_there() -> bool:
        return shards.exists() and len(list(shards.iterdir())) == SHARDS

    while not all_there():
        while len(running) < 2:
            running.append(
                node.start(seed=kills, prefetch=1, pause_s=0.02, least_piece=least_piece)
            )
        # Not by the clock: starting a reader may take longer than reading everything.
        enough = sum(node.sent().values()) + rng.randrange(1, 16 * 16384)
        while sum(node.sent().values()) < enough and not all_there():
            pass
        node.kill(running.pop(rng.randrange(2)))
        kills += 1
    assert kills > 3
    for one in running:
        assert node.result(one).get("right") == SHARDS
    metadata = read_metadata(node.store)
    sent = node.sent()
    # Sent but not yet written when its reader died: one chunk at most on each of its connections.
    lost = 16384 * kills * (1 if least_piece is None else 4)
    for shard in metadata.shards:
        assert sent[f"{shard.path}/data.mdb"] <= shard.bytes + lost
    total = sum(sent[f"{shard.path}/data.mdb"] for shard in metadata.shards)
    assert total <= sum(shard.bytes for shard in metadata.shards) + 2 * lost


@pytest.mark.parametrize("least_piece", [None, 20_000], ids=["whole", "in pieces"])
def test_files_that_vanish_while_several_processes_read_are_fetched_again(
    node: Node, least_piece: int | None
) -> None:
    rng = random.Random(3)
    budget = smallest(node.store, readers=3, at_once=2)
    started = [
        node.start(
            seed=i,
            epochs=3,
            prefetch=2,
            max_bytes=budget,
            pause_s=0.0005,
            least_piece=least_piece,
        )
        for i in range(3)
    ]
    vanished = 0
    while not all(one[1].exists() for one in started):
        folders = [node.cache / name for name in ("shards", "parts", "failed")]
        files = [path for folder in folders if folder.exists() for path in folder.iterdir()]
        if files and rng.random() < 0.1:  # oftener, and no transfer would ever come to its end
            rng.choice(files).unlink(missing_ok=True)
            vanished += 1
        node.disk_bytes()
    assert vanished > 10
    results = [node.result(one) for one in started]
    assert [result.get("right") for result in results] == [3 * SHARDS] * 3, results


def test_reshuffled_epochs_on_half_the_budget_reuse_what_is_there(node: Node) -> None:
    epochs, seed = 4, 5
    half = smallest(node.store, readers=0, at_once=0) + 7 * shard_bytes(node.store)
    started = [
        node.start(seed=seed, epochs=epochs, at_once=2, prefetch=1, max_bytes=half)
        for _ in range(2)
    ]
    results = [node.result(one) for one in started]
    assert [result.get("right") for result in results] == [epochs * SHARDS] * 2, results
    # However far one is ahead of the other: less than by a rule that does not know what comes.
    order = [
        shard
        for e in range(epochs)
        for shard in random.Random(seed + e).sample(range(SHARDS), SHARDS)
    ]
    assert sum(result["fetched"] for result in results) < 2 * lru(order, [1] * SHARDS, 7)


def test_a_connection_cut_again_and_again_brings_each_byte_once(node: Node) -> None:
    result = node.result(node.start(cut_after=70_000, prefetch=0))
    assert result["right"] == SHARDS
    metadata = read_metadata(node.store)
    sent = node.sent()
    for shard in metadata.shards:
        assert sent[f"{shard.path}/data.mdb"] == shard.bytes


def test_a_forked_child_holds_neither_locks_nor_leases_of_its_parent(
    store: Path, tmp_path: Path
) -> None:
    opened = FolderStore(str(store), str(tmp_path / "log"))
    cache = ShardCache(tmp_path / "cache", RangeSource(opened.open_remote), CacheOptions())
    code = f"""
import os, sys
from pathlib import Path
from audiomdb.cache.lock import try_exclusive, map_held
path = Path({str(tmp_path / "file")!r})
path.write_bytes(b"x" * 4096)
held = try_exclusive(path)
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.read(reading, 1)
    os._exit(0)
held.release()
again = try_exclusive(path)
assert again is not None
again.downgrade()
view = map_held(again)
assert try_exclusive(path) is None
part = view[10:20]
del view
assert try_exclusive(path) is None
del part
assert try_exclusive(path) is not None
os.write(writing, b"x")
os.waitpid(child, 0)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    cache.close()
