"""Fork while a thread fetches an index, and read one in the child. Print the child's exit status.

Arguments: folder of a dataset, and of a cache.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from audiomdb.cache import RemoteFile
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.shards import DatasetReader

fetching, forked = threading.Event(), threading.Event()


class Slow(BaseRetriever):
    def __init__(self, folder: str, **options: Any) -> None:
        super().__init__(**options)
        self.folder = Path(folder)

    def open_remote(self, path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:  # noqa: ARG002
        if path == "index.bin":
            fetching.set()
            forked.wait(60)
        data = (self.folder / path).read_bytes()
        return RemoteFile(iter([data[start:]]), start, None, len(data))


remote = Slow(sys.argv[1], cache_dir=sys.argv[2])
thread = threading.Thread(target=lambda: remote.open().index["duration"])
thread.start()
assert fetching.wait(60)
child = os.fork()
if child == 0:
    signal.alarm(20)
    with DatasetReader.open(sys.argv[1]) as reader:
        assert len(reader.index["duration"]) == len(reader)
    os._exit(7)
forked.set()
thread.join()
sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
