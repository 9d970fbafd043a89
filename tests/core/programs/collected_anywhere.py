"""The garbage collector ends forgotten iterations where it happens to interrupt a thread."""

import gc
import io
import logging
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from audiomdb.cache import readers
from audiomdb.retrievers.base import RemoteFile
from audiomdb.sample import Sample
from audiomdb.stream import SampleStream, Stall
from audiomdb.stream.ahead import in_order
from audiomdb.stream.sources import Mixture, Part
from audiomdb.stream.stalls import StallWatcher
from audiomdb.testing import MemoryRetriever, MemoryServer, MemoryStore, write_dataset
from audiomdb.testing.kits.conformance import wait_until

gc.disable()  # it runs where this program says


def begin_and_forget(iterator: Iterator[Any]) -> None:
    """Take the first item, and make garbage of the iterator that only the collector finds."""
    next(iterator)
    circle: list[object] = [iterator]
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

    begin_and_forget(
        in_order(
            lambda task: task and forgotten.wait(), tasks(), num_threads=2, weigh=int, size=int
        )
    )
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

    begin_and_forget(watched())
    handler.acquire()
    looked.clear()
    looked.wait()
    gc.collect()
    handler.release()
    logging.getLogger().removeHandler(handler)
    return ended()


def anywhere_in_the_thread_that_it_ends() -> bool:
    """Try each line of a watcher that looks and rests, also those of the standard library."""

    def watched() -> Iterator[None]:
        with StallWatcher(lambda: None, 0.001, lambda _: None):
            yield

    def collected_at(line: int) -> bool:
        collected, lines = threading.Event(), iter(range(line))
        forgotten = threading.Event()

        def trace(_frame: FrameType, event: str, _arg: object) -> Any:
            awaited = event == "line" and forgotten.is_set() and not collected.is_set()
            if awaited and next(lines, None) is None:
                gc.collect()
                collected.set()
            return trace

        threading.settrace(trace)
        begin_and_forget(watched())
        forgotten.set()
        collected.wait()
        threading.settrace(None)
        return ended()

    return all(collected_at(line) for line in range(40))


@contextmanager
def remote_shards(
    kind: type[MemoryRetriever] = MemoryRetriever,
) -> Generator[tuple[MemoryRetriever, Path], None, None]:
    """A retriever of a dataset, and the folder of the same dataset."""
    with tempfile.TemporaryDirectory() as folder, MemoryServer() as server:
        write_dataset(Path(folder, "clips"), shards=4)
        MemoryStore(server, "clips").fill(Path(folder, "clips"))
        retriever = kind(server.url("clips"), cache_dir=Path(folder, "cache"))
        yield retriever, Path(folder, "clips")
        retriever.close()


def prefetches(thread: threading.Thread) -> bool:
    return thread.name.startswith("audiomdb-prefetch")


def in_a_thread_that_prefetches() -> bool:
    forgotten, collected = threading.Event(), threading.Event()

    class Collecting(MemoryRetriever):
        def open_remote(
            self, path: str, *, start: int = 0, validator: str | None = None
        ) -> RemoteFile:
            if prefetches(threading.current_thread()):
                forgotten.wait()
                gc.collect()
                collected.set()
            return super().open_remote(path, start=start, validator=validator)

    with remote_shards(Collecting) as (retriever, _):
        begin_and_forget(iter(SampleStream(retriever, num_threads=1)))
        forgotten.set()
        collected.wait()
        return ended()


def in_a_thread_for_whose_start_another_waits() -> bool:
    forgotten, collected = threading.Event(), threading.Event()
    thread: Any = threading.Thread
    identify = thread._set_ident

    def then_collect(starting: threading.Thread) -> None:
        identify(starting)
        if prefetches(starting):
            forgotten.wait()
            gc.collect()
            collected.set()

    with remote_shards() as (retriever, folder):
        thread._set_ident = then_collect
        # The consumer gets a sample of the first part, while a thread begins with the second.
        mixture = Mixture([Part(folder), Part(retriever)], interleave=None)
        begin_and_forget(iter(SampleStream(mixture, num_threads=1)))
        forgotten.set()
        collected.wait()
        thread._set_ident = identify
        return ended()


def in_a_thread_whose_lock_another_needs_that_has_a_lock_of_the_iteration() -> bool:
    forgotten, collected = threading.Event(), threading.Event()
    locked, needed = threading.Event(), threading.Event()
    module: Any = readers
    is_at, mark_done = module.is_at, module.Registration.mark_done

    def then_collect(fd: int, path: Path) -> bool:
        if prefetches(threading.current_thread()) and not locked.is_set():
            locked.set()
            forgotten.wait()
            needed.wait()
            gc.collect()
            collected.set()
        return bool(is_at(fd, path))

    def struck(registration: readers.Registration, visit: int) -> None:
        if locked.is_set():
            needed.set()
        mark_done(registration, visit)

    def processed(sample: Sample) -> Sample:
        if threading.current_thread() is not threading.main_thread():
            locked.wait()
            forgotten.wait()
        return sample

    with remote_shards() as (retriever, _):
        module.is_at, module.Registration.mark_done = then_collect, struck
        begin_and_forget(iter(SampleStream(retriever, num_threads=1, processor=processed)))
        forgotten.set()
        collected.wait()
        module.is_at, module.Registration.mark_done = is_at, mark_done
        return ended()


cases: list[Callable[[], bool]] = [
    in_a_thread_that_holds_the_lock_for_which_others_wait,
    in_a_thread_that_holds_the_lock_of_a_log,
    anywhere_in_the_thread_that_it_ends,
    in_a_thread_that_prefetches,
    in_a_thread_for_whose_start_another_waits,
    in_a_thread_whose_lock_another_needs_that_has_a_lock_of_the_iteration,
]
for case in cases:
    print(f"{case.__name__}: {case()}", flush=True)  # noqa: T201
