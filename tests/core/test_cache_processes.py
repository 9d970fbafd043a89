from __future__ import annotations

import json
import os
import random
import runpy
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.cache import CacheOptions, RangeSource, ShardCache
from audiomdb.shards import DatasetWriter, read_metadata

PROGRAM = Path(__file__).parent / "programs" / "cache_reader.py"
SHARDS = 12


class Node:
    """Forks readers, and knows what they did."""

    def __init__(self, store: Path, folder: Path) -> None:
        self.store, self.cache, self.folder = store, folder / "cache", folder
        self.log = folder / "log"
        self._program = subprocess.Popen(
            [sys.executable, PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._count = 0

    def command(self, command: dict[str, Any]) -> int:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(json.dumps(command) + "\n")
        self._program.stdin.flush()
        return int(self._program.stdout.readline())

    def start(
        self,
        *,
        seed: int = 0,
        epochs: int = 1,
        at_once: int = 2,
        hold_s: float = 0.0,
        pause_s: float = 0.0,
        cut_after: int | None = None,
        **options: Any,
    ) -> tuple[int, Path]:
        self._count += 1
        result = self.folder / f"result-{self._count}.json"
        store = {"folder": str(self.store), "log": str(self.log), "pause_s": pause_s}
        config = {
            "store": {**store, "cut_after": cut_after},
            "cache": str(self.cache),
            "options": options,
            "read": {"seed": seed, "epochs": epochs, "at_once": at_once, "hold_s": hold_s},
            "result": str(result),
        }
        return self.command({"read": config}), result

    def result(self, started: tuple[int, Path]) -> dict[str, Any]:
        assert self.command({"wait": started[0]}) == 0
        result: dict[str, Any] = json.loads(started[1].read_text())
        return result

    def kill(self, started: tuple[int, Path]) -> None:
        os.kill(started[0], signal.SIGKILL)
        self.command({"wait": started[0]})

    def sent(self) -> Counter[str]:
        """Bytes of each file that the store sent."""
        sent: Counter[str] = Counter()
        for line in self.log.read_text().splitlines():
            path, size = line.split()
            sent[path] += int(size)
        return sent

    def disk_bytes(self) -> int:
        """What lies in the cache directory now, hidden files too."""
        total = 0
        for path in self.cache.rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() else 0
            except FileNotFoundError:
                continue
        return total

    def close(self) -> None:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.close()
        self._program.wait()
        self._program.stdout.close()


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


def smallest(store: Path, readers: int, at_once: int) -> int:
    """What the refusal says would do."""
    metadata = read_metadata(store)
    notes = readers * (32 + 4 * 2 * len(metadata.shards))
    fixed = (store / "metadata.json").stat().st_size + metadata.index.bytes + 65536
    return readers * at_once * shard_bytes(store) + notes + fixed


def test_eight_cold_processes_fetch_each_shard_once(node: Node) -> None:
    started = [node.start(seed=i, at_once=3, prefetch=i % 3) for i in range(8)]
    results = [node.result(one) for one in started]
    assert [result.get("right") for result in results] == [SHARDS] * 8, results
    assert sum(result["fetched"] for result in results) == SHARDS
    metadata = read_metadata(node.store)
    sent = node.sent()
    assert sent.pop("metadata.json") == (node.store / "metadata.json").stat().st_size
    assert sent == {f"{shard.path}/data.mdb": shard.bytes for shard in metadata.shards}


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
    # A listing is not atomic: a shard that is being renamed may be seen twice.
    assert 4 * shard_bytes(node.store) < most <= budget + shard_bytes(node.store)


def test_one_byte_less_than_the_smallest_budget_is_refused_with_that_number(node: Node) -> None:
    budget = smallest(node.store, readers=1, at_once=2)
    result = node.result(node.start(at_once=2, max_bytes=budget - 1))
    assert result["error"] == "CacheTooSmallError"
    assert f"max_cache_bytes={budget};" in result["text"]
    assert node.result(node.start(at_once=2, max_bytes=budget))["right"] == SHARDS


def test_killed_readers_leave_a_cache_that_others_use(node: Node) -> None:
    rng = random.Random(1)
    budget = smallest(node.store, readers=3, at_once=2) + 3 * shard_bytes(node.store)
    running: list[tuple[int, Path]] = []
    most = kills = 0
    while kills < 40:
        while len(running) < 3:
            seed = rng.randrange(1000)
            running.append(
                node.start(seed=seed, epochs=2, prefetch=2, max_bytes=budget, pause_s=0.001)
            )
        for _ in range(rng.randrange(12)):
            most = max(most, node.disk_bytes())
        node.kill(running.pop(rng.randrange(3)))
        kills += 1
    assert [node.result(one).get("right") for one in running] == [2 * SHARDS] * 2
    assert most <= budget + shard_bytes(node.store)
    assert node.result(node.start(max_bytes=budget))["right"] == SHARDS
    assert list((node.cache / "readers").iterdir()) == []


def test_after_kills_parts_are_resumed_and_whole_shards_are_not_fetched_again(node: Node) -> None:
    rng = random.Random(2)
    kills = 0
    running: list[tuple[int, Path]] = []
    while not all(
        (node.cache / "shards").exists() and len(list((node.cache / "shards").iterdir())) == SHARDS
        for _ in "1"
    ):
        while len(running) < 2:
            running.append(node.start(seed=kills, prefetch=1, pause_s=0.004))
        for _ in range(rng.randrange(1, 40)):
            node.disk_bytes()
        node.kill(running.pop(rng.randrange(2)))
        kills += 1
    assert kills > 3
    for one in running:
        assert node.result(one).get("right") == SHARDS
    metadata = read_metadata(node.store)
    sent = node.sent()
    for shard in metadata.shards:
        # Sent but not yet written when its reader died: one chunk at most, each time.
        assert sent[f"{shard.path}/data.mdb"] <= shard.bytes + 16384 * kills
    total = sum(sent[f"{shard.path}/data.mdb"] for shard in metadata.shards)
    assert total <= sum(shard.bytes for shard in metadata.shards) + 2 * 16384 * kills


def test_reshuffled_epochs_on_half_the_budget_reuse_what_is_there(node: Node) -> None:
    half = smallest(node.store, readers=0, at_once=0) + 7 * shard_bytes(node.store)
    started = [
        node.start(seed=5, epochs=4, at_once=2, prefetch=1, max_bytes=half) for _ in range(2)
    ]
    results = [node.result(one) for one in started]
    assert [result.get("right") for result in results] == [4 * SHARDS] * 2, results
    assert sum(result["fetched"] for result in results) < 3.3 * SHARDS


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
    program = runpy.run_path(str(PROGRAM))
    opened = program["FolderStore"](str(store), str(tmp_path / "log"))
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
