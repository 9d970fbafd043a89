"""Interrupts loops over a dataset at random moments, and writes what became of it as JSON.

A process of its own: in the tests' one, an interrupt may hit a callback of the garbage collector
that a test library has set, and Python drops what is raised there.

Arguments: the dataset's folder, the device or `none`, how many interrupts, and optionally the seed
of their moments.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import threading

from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.retrievers.local import LocalRetriever

arrived = False


def interrupt(*_: object) -> None:
    global arrived
    arrived = True
    raise KeyboardInterrupt


def was_ended(loader: StreamingLoader, after_s: float) -> bool:
    """Whether the interrupt that comes some time after the third batch ends the loop."""
    global arrived
    arrived = False
    try:
        loop(loader, after_s)
    except KeyboardInterrupt:
        return True
    return False


def loop(loader: StreamingLoader, after_s: float) -> None:
    # A function of its own: Python 3.13 leaves the jump back to a loop's head out of the `try` that
    # the loop stands in.
    for number, _batch in enumerate(loader):
        if arrived:
            return
        if number == 3:
            signal.setitimer(signal.ITIMER_REAL, after_s)
    raise AssertionError("an endless loop has ended")


def decoding() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("audiomdb")]


def ended(thread: threading.Thread) -> bool:
    # A thread whose start is interrupted is not waited for: it ends by itself, or never begins.
    if thread.ident is not None:
        thread.join(300)
    return not thread.is_alive()


def main(folder: str, device: str, interrupts: int, seed: int = 1) -> None:
    chance = random.Random(seed)
    signal.signal(signal.SIGALRM, interrupt)
    loader = StreamingLoader(
        StreamingDataset(LocalRetriever(folder)),
        4,
        epochs=None,
        num_workers=0,
        device=None if device == "none" else device,
    )
    lost = 0
    threads: set[str] = set()
    for _ in range(interrupts):
        lost += not was_ended(loader, chance.uniform(0.0001, 0.02))
        threads.update(thread.name for thread in decoding() if not ended(thread))
    json.dump({"lost": lost, "threads": sorted(threads)}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
