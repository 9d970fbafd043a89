"""Print what threads of the library import while a dataset is read, where a fork may interrupt it.

A child of that fork would wait for ever when it imports the same.

Arguments: folder of the dataset, and of a cache. It is read in place, then from a server.
"""

import builtins
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from audiomdb import lazy
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.stream import SampleStream
from audiomdb.testing import MemoryRetriever, MemoryServer, MemoryStore

real: Callable[..., Any] = builtins.__import__


def watched(name: str, *args: Any, **kwargs: Any) -> Any:
    if threading.current_thread() is threading.main_thread() or lazy._importing._is_owned():  # type: ignore[attr-defined]
        return real(name, *args, **kwargs)
    before = set(sys.modules)
    module = real(name, *args, **kwargs)
    for new in sorted(set(sys.modules) - before):
        sys.stdout.write(f"{new} in {threading.current_thread().name}\n")
    return module


builtins.__import__ = watched
place = LocalRetriever(sys.argv[1])
with SampleStream(place, shuffle=True, num_threads=2, sample_rate=8000, mono=True) as samples:
    for _ in samples:
        pass
with MemoryServer() as server:
    MemoryStore(server, "clips").fill(Path(sys.argv[1]))
    remote = MemoryRetriever(server.url("clips"), cache_dir=sys.argv[2])
    with SampleStream(remote, num_threads=2) as samples:
        for _ in samples:
            pass
    remote.close()
