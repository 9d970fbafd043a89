"""The garbage collector ends forgotten iterations where it happens to interrupt a thread."""

import gc
import io
import logging
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from audiomdb.retrievers.base import RemoteFile
from audiomdb.stream import SampleStream, Stall
from audiomdb.stream.ahead import in_order
from audiomdb.stream.stalls import StallWatcher
from audiomdb.testing import MemoryRetriever, MemoryServer, MemoryStore, write_dataset
from audiomdb.testing.kits.conformance import wait_until

gc.disable()  # it runs where this program says


def forget(iterator: object) -> None:
    """Make something garbage that only the collector finds."""
    circle = [iterator]
    circle.append(circle)


def ended() -> bool:
    """Return whether no thread of the library is left, after a while."""
    return wait_until(
        lambda: not any(thread.name.startswith("audiomdb") for thread in threading.enumerate())
    )


def in_a_thread_that_holds_the_lock_for_which_others_wait() -> bool:
    forgotten = threading.Event()

    def tasks() -> Iterator[int]:
        for task in range(1000):
            if forgotten.is_set():
                gc.collect()
            yield task

    results = in_order(
        lambda task: task and forgotten.wait(), tasks(), num_threads=2, weigh=int, size=int
    )
    next(results)
    forget(results)
    del results
    forgotten.set()
    return ended()


def in_a_thread_that_holds_the_lock_of_a_log() -> bool:
    handler, looked = logging.StreamHandler(io.StringIO()), threading.Event()
    logging.getLogger().addHandler(handler)

    def look() -> Stall:
        looked.set()
        return Stall(cause="decode", waited_s=9.0)

    def watched() -> Iterator[None]:
        with StallWatcher(look, 0.01, lambda stall: logging.getLogger().warning("%s", stall.cause)):
            yield

    watching = watched()
    next(watching)
    forget(watching)
    del watching
    handler.acquire()
    looked.clear()
    looked.wait()
    gc.collect()
    handler.release()
    logging.getLogger().removeHandler(handler)
    return ended()


def in_a_thread_that_prefetches() -> bool:
    forgotten, collected = threading.Event(), threading.Event()

    class Collecting(MemoryRetriever):
        def open_remote(
            self, path: str, *, start: int = 0, validator: str | None = None
        ) -> RemoteFile:
            if threading.current_thread().name.startswith("audiomdb-prefetch"):
                forgotten.wait()
                gc.collect()
                collected.set()
            return super().open_remote(path, start=start, validator=validator)

    with tempfile.TemporaryDirectory() as folder, MemoryServer() as server:
        write_dataset(Path(folder, "clips"), shards=4)
        MemoryStore(server, "clips").fill(Path(folder, "clips"))
        retriever = Collecting(server.url("clips"), cache_dir=Path(folder, "cache"))
        samples = iter(SampleStream(retriever, num_threads=1))
        next(samples)
        forget(samples)
        del samples
        forgotten.set()
        collected.wait()
        retriever.close()
        return ended()


cases: list[Callable[[], bool]] = [
    in_a_thread_that_holds_the_lock_for_which_others_wait,
    in_a_thread_that_holds_the_lock_of_a_log,
    in_a_thread_that_prefetches,
]
for case in cases:
    sys.stdout.write(f"{case.__name__}: {case()}\n")
