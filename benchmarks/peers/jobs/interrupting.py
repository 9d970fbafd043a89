"""Stopping at random and going on with other numbers of ranks, workers and threads.

Ranks are loaders of one process, workers are processes. The stream is what all ranks get, step by
step: rank by rank, each one's batches in their order.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.jobs.modes import STEPWISE, keys_of, opened

__all__ = ["interrupt"]

_RANKS = (1, 2, 3, 4)
_STEP = 12
_MOST_STEPS = 12
"""Steps between two interruptions, at most."""


def interrupt(system: str, folder: str, times: int, seed: int) -> dict[str, Any]:  # noqa: ARG001
    """Interrupt a run of each mode in turn, `times` in all.

    Returns:
        For each mode, interruptions, and after how many of them the stream was that of a run of
        one rank that nobody interrupted.
    """
    drawn = random.Random(seed)
    shares = {mode: times // len(STEPWISE) for mode in STEPWISE}
    shares[STEPWISE[0]] += times % len(STEPWISE)
    cases = []
    for mode, number in shares.items():
        undisturbed = _Undisturbed(mode, Path(folder))
        state = undisturbed.start
        equal = clips = 0
        wrong: list[dict[str, Any]] = []
        for _ in range(number):
            ranks = drawn.choice(_RANKS)
            workers = drawn.choice((0, 0, 1, 2))
            threads = drawn.choice((0, 1, 2))
            wanted = drawn.randint(1, _MOST_STEPS)
            world = _World(mode, Path(folder), ranks, workers, threads)
            stream, state = world.go_on(state, wanted)
            expected = undisturbed.following(len(stream))
            clips += sum(map(len, stream))
            equal += stream == expected
            if stream != expected:
                wrong.append({"ranks": ranks, "workers": workers, "threads": threads})
        cases.append(
            {
                "mode": mode,
                "interrupted": number,
                "equal": equal,
                "clips": clips,
                "epochs": undisturbed.epochs,
                "wrong": wrong[:3],
            }
        )
    return {"cases": cases}


class _World:
    """Ranks that go on from a state."""

    def __init__(self, mode: str, folder: Path, ranks: int, workers: int, threads: int) -> None:
        self._loaders = [
            opened(
                mode,
                folder,
                workers=workers,
                threads=threads,
                step=_STEP,
                ranks=ranks,
                rank=rank,
            )
            for rank in range(ranks)
        ]

    def go_on(self, state: dict[str, Any], steps: int) -> tuple[list[list[str]], dict[str, Any]]:
        """Take steps, fewer where the epoch ends before; return them and the state after them."""
        for loader in self._loaders:
            # As a checkpoint does: written and read back.
            loader.load_state_dict(json.loads(json.dumps(state)))
        each = self._loaders[0].batches_per_step
        running = [keys_of(loader) for loader in self._loaders]
        stream = []
        for _ in range(steps):
            parts = [[next(rank, None) for _ in range(each)] for rank in running]
            batches = [batch for part in parts for batch in part]
            if all(batch is None for batch in batches):
                break
            # A rank that has none where others have some is a difference too.
            complete = [["missing"] if batch is None else batch for batch in batches]
            stream.append([key for batch in complete for key in batch])
        states = [loader.state_dict() for loader in self._loaders]
        for rank, loader in zip(running, self._loaders, strict=True):
            rank.close()  # type: ignore[attr-defined]
            loader.close()
        if any(other != states[0] for other in states):
            stream.append(["states of ranks differ"])
        return stream, states[0]


class _Undisturbed:
    """The stream of one rank, epoch after epoch."""

    def __init__(self, mode: str, folder: Path) -> None:
        self._loader = opened(mode, folder, step=_STEP, ranks=1, rank=0)
        self.start: dict[str, Any] = self._loader.state_dict()
        self.epochs = 0
        self._steps = self._all()

    def following(self, steps: int) -> list[list[str]]:
        """The next steps."""
        return [next(self._steps) for _ in range(steps)]

    def _all(self) -> Iterator[list[str]]:
        each = self._loader.batches_per_step
        while True:
            self.epochs += 1
            batches = list(keys_of(self._loader))
            for first in range(0, len(batches), each):
                yield [key for batch in batches[first : first + each] for key in batch]
