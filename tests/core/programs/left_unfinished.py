"""A process that ends in the middle of an iteration.

Its arguments are what a thread is at, and an empty folder.
"""

import sys
import threading
import time
from pathlib import Path

from audiomdb.sample import Sample
from audiomdb.stream import SampleStream
from audiomdb.testing import FaultProxy, MemoryRetriever, MemoryServer, MemoryStore, write_dataset

case, folder = sys.argv[1], Path(sys.argv[2])
busy = threading.Event()


def never_returns(sample: Sample) -> Sample:
    if threading.current_thread() is not threading.main_thread():
        busy.set()
        threading.Event().wait()
    return sample


def stop_within_a_lock() -> None:
    """Have a thread that prefetches sleep with a lock of the iteration, until the process ends."""
    # Apart from this module, which a function of it would keep from being cleared at the end.
    scope = {"busy": busy, "threading": threading, "sleep": time.sleep}
    program = """if True:
        from audiomdb.cache.course import CacheCourse

        def unfinished(course, before=CacheCourse._unfinished):
            if threading.current_thread().name.startswith("audiomdb-prefetch"):
                busy.set()
                sleep(2)
            return before(course)

        CacheCourse._unfinished = unfinished
    """
    exec(program, scope)  # noqa: S102


server = MemoryServer()
write_dataset(folder / "clips", shards=4)
MemoryStore(server, "clips").fill(folder / "clips")
proxy = FaultProxy(server.url("clips"))
retriever = MemoryRetriever(
    proxy.url, cache_dir=folder / "cache", timeout_s=3600, prefetch=2 if case == "lock" else 0
)
stream = SampleStream(
    retriever,
    num_threads=0 if case == "lock" else 1,
    processor=never_returns if case == "processor" else None,
)
samples = iter(stream)
next(samples)
if case == "store":
    proxy.fail("stall", then=busy.set)
elif case == "lock":
    stop_within_a_lock()
busy.wait()
print("left")  # noqa: T201
