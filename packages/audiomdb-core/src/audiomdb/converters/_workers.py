"""Worker processes on this machine that processors run in.

Uses loky rather than the standard library's pool: its workers start without importing the script
again, so no main guard is needed, and classes of that script or of a notebook are sent by value. It
ends them with the help of psutil.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from audiomdb.errors import ProcessingError
from audiomdb.machine import usable_cores
from audiomdb.sample import Sample
from audiomdb.shards.prepare import Process

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

__all__ = ["explain_lost_workers", "worker_processes"]

_THREAD_LIMITS = (
    "BLIS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Environment variables that numerical libraries, including PyTorch, take thread counts from."""

_ORPHAN_CHECK_S = 1.0


@contextmanager
def worker_processes(
    workers: int, process: Process
) -> Iterator[tuple[Executor, Callable[[Sample], Sample]]]:
    """Start worker processes and send each of them `process`, once.

    They exit at the end of this block: at once if it ends with an exception, and within seconds if
    this process is killed.

    Args:
        workers: Number of processes. The cores are divided among their inner threads.
        process: Anything that cloudpickle can pickle.

    Yields:
        The pool, and a small picklable stand-in for `process` that works in its processes.

    Raises:
        ProcessingError: when `process` cannot be sent.
    """
    from concurrent.futures import BrokenExecutor

    import loky

    defaults = dict.fromkeys(_THREAD_LIMITS, str(max(1, usable_cores() // workers)))
    # Where memory has grown by 300 MB since the first call, loky sees a leak, and starts the worker
    # anew. It may be a model that the processor has loaded.
    defaults["LOKY_MAX_MEMORY_LEAK_SIZE"] = "1e18"
    pool = loky.ProcessPoolExecutor(
        workers,
        initializer=_start,
        initargs=(process, os.getpid()),
        env={name: os.environ.get(name, default) for name, default in defaults.items()},
    )
    submit = pool.submit

    def submit_for_good(*work: object) -> Future[object]:
        future: Future[object] = submit(*work)
        future.cancel = _refuse  # type: ignore[method-assign]
        return future

    # When loky kills its processes, it cannot handle work that was cancelled.
    pool.submit = submit_for_good
    failed = True
    try:
        try:
            pool.submit(os.getpid).result()
        except BrokenExecutor as exc:
            raise ProcessingError(
                f"{process!r} does not arrive in worker processes: does it need a module that only "
                "this process can import? They have printed what went wrong. num_workers=1 needs "
                "no other process"
            ) from exc
        except Exception as exc:
            raise ProcessingError(
                f"{process!r} cannot be sent to worker processes: {type(exc).__name__}: {exc}. "
                "Keep out of its attributes what belongs to one process (open files, locks, "
                "clients), or set num_workers=1, which needs no other process"
            ) from exc
        yield pool, _in_worker
        failed = False
    finally:
        pool.shutdown(wait=True, kill_workers=failed)


@contextmanager
def explain_lost_workers(process: Process | None) -> Iterator[None]:
    """Explain what it means if a worker process ended unexpectedly.

    Raises:
        ProcessingError: in place of the pool's own error.
    """
    from concurrent.futures import BrokenExecutor

    try:
        yield
    except BrokenExecutor as exc:
        what = "it worked" if process is None else f"it ran {process!r}"
        raise ProcessingError(
            f"a worker process ended while {what}. When the system has killed it, "
            "memory has most likely run out: set num_workers lower. The pool says: "
            f"{' '.join(str(exc).split())}"
        ) from exc


_received: list[Process] = []
"""In a worker process: the one function that the process was started for."""


def _refuse() -> bool:
    return False


def _start(process: Process, parent: int) -> None:
    # Ctrl-C in a terminal reaches the whole process group; the parent decides when workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _received[:] = [process]


def _end_with(parent: int) -> None:
    """Exit once the parent has: if it is killed, it sends no message, and the queue stays open."""
    never = threading.Event()
    while os.getppid() == parent:
        never.wait(_ORPHAN_CHECK_S)
    os._exit(1)


def _in_worker(sample: Sample) -> Sample:
    return dict(_received[0](sample))
