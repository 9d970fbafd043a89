"""Reads a dataset through a cache, in processes of their own that can be killed.

Run as a program it takes commands as lines of JSON on stdin: `{"read": {...}}` forks a process that
reads (answer: its id), `{"wait": id}` waits for one (answer: its exit status).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import audiomdb.cache.transfer
from audiomdb.cache import CacheOptions, DirectorySource, RangeSource, RemoteFile, ShardCache
from audiomdb.cache.course import CacheCourse
from audiomdb.errors import DownloadError, DownloadInterruptedError


class FolderStore:
    """A remote store made of a folder; what it sends is noted in a file, chunk by chunk.

    Where transfers of shards begin and end is noted in another one.

    Args:
        folder: The dataset.
        log: The file: lines of path and bytes. The other is beside it: lines of +1 and -1.
        chunk_bytes: Of each chunk.
        pause_s: After each chunk, so that a transfer takes a while.
        cut_after: Bytes of shards after which each connection breaks.
        least_piece: Bytes of the smallest piece that a shard is fetched in; None: as it is.
    """

    def __init__(
        self,
        folder: str,
        log: str,
        chunk_bytes: int = 16384,
        pause_s: float = 0.0,
        cut_after: int | None = None,
        least_piece: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.log = Path(log)
        self.transfers = self.log.with_suffix(".transfers")
        self.chunk_bytes = chunk_bytes
        self.pause_s = pause_s
        self.cut_after = cut_after
        if least_piece is not None:
            audiomdb.cache.transfer._LEAST_PIECE = least_piece

    def open_remote(
        self, path: str, *, start: int = 0, stop: int | None = None, validator: str | None = None
    ) -> RemoteFile:
        file = self.folder / path
        if not file.exists():
            raise DownloadError(f"{path} is not in the store")
        found = file.stat()
        tag = f"{found.st_size}-{found.st_mtime_ns}"
        if validator not in (tag, None) or (start and validator is None):
            start, stop = 0, None
        return RemoteFile(self._chunks(path, start, stop), start, tag, found.st_size)

    def directories(self) -> DirectorySource:
        """The same store for one that fetches whole directories."""

        def fetch(path: str, folder: Path) -> Path:
            target = folder / path
            target.parent.mkdir(exist_ok=True)
            with target.open("wb", buffering=0) as file:
                for chunk in self._chunks(path, 0, None):
                    file.write(chunk)
            return target

        def download_shard(number: int, folder: Path) -> Path:
            fetch(f"shard_{number:05d}/lock.mdb", folder)
            return fetch(f"shard_{number:05d}/data.mdb", folder).parent

        return DirectorySource(
            "Mine", lambda folder: fetch("metadata.json", folder), download_shard
        )

    def _chunks(self, path: str, start: int, stop: int | None) -> Iterator[bytes]:
        if not path.endswith(".mdb"):
            yield from self._sent(path, start, stop, None)
            return
        self._note(self.transfers, "+1\n")
        try:
            yield from self._sent(path, start, stop, self.cut_after)
        finally:
            self._note(self.transfers, "-1\n")

    def _sent(self, path: str, start: int, stop: int | None, cut: int | None) -> Iterator[bytes]:
        sent = 0
        with (self.folder / path).open("rb") as file:
            file.seek(start)
            left = self.chunk_bytes if stop is None else stop - start
            while chunk := file.read(min(self.chunk_bytes, left)):
                left -= 0 if stop is None else len(chunk)
                if cut is not None and sent >= cut:
                    raise DownloadInterruptedError("cut")
                sent += len(chunk)
                self._note(self.log, f"{path} {len(chunk)}\n")
                time.sleep(self.pause_s)
                yield chunk

    @staticmethod
    def _note(file: Path, line: str) -> None:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
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

    def close_shard(number: int) -> None:
        del views[number]

    course = CacheCourse(cache, at_once, open_shard=open_shard, close_shard=close_shard)
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


def kill_at(operation: int, folder: str) -> None:
    """Have this process killed right before a file operation in a folder; 0 is the first."""
    count = [operation]

    def step() -> None:
        if count[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        count[0] -= 1

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in OPERATIONS or (event == "open" and str(arguments[0]).startswith(folder)):
            step()

    pwrite = os.pwrite

    def write(fd: int, data: Any, at: int) -> int:
        step()
        return pwrite(fd, data, at)

    os.pwrite = write
    sys.addaudithook(hook)


OPERATIONS = frozenset(
    {"fcntl.flock", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.utime"}
)


def child(config: dict[str, Any]) -> None:
    store = FolderStore(**config["store"])
    options = CacheOptions(**config.get("options", {}))
    source = RangeSource(store.open_remote)
    result: dict[str, Any]
    if config.get("kill_at") is not None:
        kill_at(config["kill_at"], config["cache"])
    try:
        directories = config.get("source") == "directories"
        cache = ShardCache(
            Path(config["cache"]), store.directories() if directories else source, options
        )
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
