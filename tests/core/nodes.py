"""A machine's processes that read one dataset through one cache, and what they did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

from audiomdb.cache.lock import exclusive
from audiomdb.shards import read_metadata
from audiomdb.shards.files import bytes_below
from tests.core.caches import budget

__all__ = ["Node", "smallest"]

PROGRAM = Path(__file__).parent / "programs" / "cache_reader.py"


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
        least_piece: int | None = None,
        source: str = "ranges",
        kill_at: int | None = None,
        **options: Any,
    ) -> tuple[int, Path]:
        self._count += 1
        result = self.folder / f"result-{self._count}.json"
        store = {"folder": str(self.store), "log": str(self.log), "pause_s": pause_s}
        config = {
            "store": {**store, "cut_after": cut_after, "least_piece": least_piece},
            "cache": str(self.cache),
            "options": options,
            "read": {"seed": seed, "epochs": epochs, "at_once": at_once, "hold_s": hold_s},
            "result": str(result),
            "source": source,
            "kill_at": kill_at,
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

    def most_transfers(self) -> int:
        """How many transfers of shards were under way at a time, over all processes."""
        notes = self.log.with_suffix(".transfers").read_text().split()
        return max(accumulate(map(int, notes)))

    def disk_bytes(self) -> int:
        """What lies in the cache directory now, hidden files too.

        Names come and go under `budget.lock` alone, so what is counted under it is exact, where a
        listing beside running readers sees a shard twice, or one that has gone and the next one.
        """
        self.cache.mkdir(exist_ok=True)
        with exclusive(self.cache / "budget.lock"):
            return bytes_below(self.cache)

    def close(self) -> None:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.close()
        self._program.wait()
        self._program.stdout.close()


def smallest(store: Path, readers: int, at_once: int) -> int:
    """What the refusal says would do."""
    notes = readers * (32 + 4 * 2 * len(read_metadata(store).shards))
    return budget(store, readers * at_once) + notes
