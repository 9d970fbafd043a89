"""Reads a dataset through a cache, in processes of their own that can be killed.

Run as a program it takes commands as lines of JSON on stdin: `{"read": {...}}` forks a process that
reads (answer: its id), `{"wait": id}` waits for one (answer: its exit status).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiomdb.cache import CacheOptions, RangeSource, RemoteFile, ShardCache
from audiomdb.cache.course import CacheCourse
from audiomdb.errors import DownloadError, DownloadInterruptedError


class FolderStore:
    """A remote store made of a folder; what it sends is noted in a file, chunk by chunk.

    Args:
        folder: The dataset.
        log: The file: lines of path and bytes.
        chunk_bytes: Of each chunk.
        pause_s: After each chunk, so that a transfer takes a while.
        cut_after: Bytes of shards after which each connection breaks.
    """

    def __init__(
        self,
        folder: str,
        log: str,
        chunk_bytes: int = 16384,
        pause_s: float = 0.0,
        cut_after: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.log = Path(log)
        self.chunk_bytes = chunk_bytes
        self.pause_s = pause_s
        self.cut_after = cut_after

    def open_remote(self, path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:
        file = self.folder / path
        if not file.exists():
            raise DownloadError(f"{path} is not in the store")
        found = file.stat()
        tag = f"{found.st_size}-{found.st_mtime_ns}"
        if validator != tag:
            start = 0
        return RemoteFile(self._chunks(path, start), start, tag, found.st_size)

    def _chunks(self, path: str, start: int) -> Iterator[bytes]:
        cut = self.cut_after if path.endswith(".mdb") else None
        sent = 0
        with (self.folder / path).open("rb") as file:
            file.seek(start)
            while chunk := file.read(self.chunk_bytes):
                if cut is not None and sent >= cut:
                    raise DownloadInterruptedError("cut")
                sent += len(chunk)
                self._note(f"{path} {len(chunk)}\n")
                time.sleep(self.pause_s)
                yield chunk

    def _note(self, line: str) -> None:
        fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, line.encode())
        os.close(fd)


def read_through(
    cache: ShardCache, *, seed: int, epochs: int, at_once: int, hold_s: float = 0.0
) -> int:
    """Visit all shards in a random order, `at_once` at a time; returns how many were right."""
    entries = cache.metadata.shards
    views: dict[int, memoryview] = {}
    right = 0

    def open_shard(number: int, check: Any) -> None:
        views[number] = cache.lease(number, check=check)

    def let_go(number: int) -> None:
        del views[number]

    course = CacheCourse(cache, at_once, open_shard=open_shard, let_go=let_go)
    orders = [
        random.Random(seed + e).sample(range(len(entries)), len(entries)) for e in range(epochs + 1)
    ]
    for epoch in range(epochs):
        order = orders[epoch]
        course.begin(order, orders[epoch + 1] if epoch + 1 < epochs else ())
        for place, number in enumerate(order):
            later = order[max(0, place + 2 - at_once) : place + 2] if place + 1 < len(order) else []
            (visit,) = course.draw([number], later)
            course.enter(visit)
            assert len(views) <= at_once or cache.holds_everything
            right += hashlib.sha256(views[number]).hexdigest() == entries[number].sha256
            time.sleep(hold_s)
            course.leave(visit)
    course.close()
    assert not views
    return right


def child(config: dict[str, Any]) -> None:
    store = FolderStore(**config["store"])
    options = CacheOptions(**config.get("options", {}))
    result: dict[str, Any]
    try:
        cache = ShardCache(Path(config["cache"]), RangeSource(store.open_remote), options)
        right = read_through(cache, **config["read"])
        result = {"right": right, "fetched": cache.stats.fetched_shards, "hits": cache.stats.hits}
        cache.close()
    except Exception as error:  # noqa: BLE001
        result = {"error": type(error).__name__, "text": str(error)}
    Path(config["result"]).write_text(json.dumps(result))


def main() -> None:
    for line in sys.stdin:
        command = json.loads(line)
        if "wait" in command:
            answer = os.waitpid(command["wait"], 0)[1]
        else:
            answer = os.fork()
            if answer == 0:
                try:
                    child(command["read"])
                finally:
                    os._exit(0)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
