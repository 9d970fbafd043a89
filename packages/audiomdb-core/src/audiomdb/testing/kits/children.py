"""Child processes that read a dataset, as workers of a data loader do."""

from __future__ import annotations

import multiprocessing
import warnings
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import msgspec

from audiomdb.errors import CacheError
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.testing.datasets import sample_digest

__all__ = ["ChildResult", "read_in_children", "start_child"]

_LONGEST_S = 60.0  # less than `longest_test_s`


class ChildResult(msgspec.Struct, frozen=True):
    """What a child process has read.

    Attributes:
        digests: Digests of all samples, in order.
        fetched_shards: Shards that this child fetched; 0 where there is no cache.
        error: The exception it ended with, if any.
    """

    digests: list[str] = []
    fetched_shards: int = 0
    error: str | None = None


def start_child(retriever: BaseRetriever, start_method: str) -> tuple[BaseProcess, Connection]:
    """Start a process that reads all samples; return it and the pipe for its `ChildResult`."""
    context: Any = multiprocessing.get_context(start_method)
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_read_all, args=(retriever, theirs), daemon=True)
    with warnings.catch_warnings():
        # Forking with threads is known to be a risk; data loaders do it all the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    theirs.close()
    return child, ours


def read_in_children(retriever: BaseRetriever, start_method: str, count: int) -> list[ChildResult]:
    """Have `count` processes read all samples at the same time."""
    started = [start_child(retriever, start_method) for _ in range(count)]
    return [_result(child, results) for child, results in started]


def _result(child: BaseProcess, results: Connection) -> ChildResult:
    with results:
        try:
            came = results.poll(_LONGEST_S)
            content = results.recv_bytes() if came else b""
        except EOFError:
            content = b""
    if not content:
        child.kill()
    child.join(_LONGEST_S)
    code = child.exitcode
    child.close()
    if not content:
        return ChildResult(error=f"the process ended with code {code} and said nothing")
    return msgspec.json.decode(content, type=ChildResult)


def _read_all(retriever: BaseRetriever, results: Connection) -> None:
    try:
        digests = [sample_digest(sample) for sample in retriever.open()]
        result = ChildResult(digests, _fetched(retriever))
    except Exception as error:  # noqa: BLE001 - it is reported to the parent
        result = ChildResult(error=f"{type(error).__name__}: {error}")
    results.send_bytes(msgspec.json.encode(result))
    results.close()
    retriever.close()


def _fetched(retriever: BaseRetriever) -> int:
    try:
        return retriever.cache_stats.fetched_shards
    except CacheError:  # it reads in place
        return 0
