"""Closes a loader whose worker is sending a batch that is larger than the pipe to the loop.

Argument: the dataset's folder.
"""

from __future__ import annotations

import fcntl
import struct
import sys
import termios
import time
from typing import Any

from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.retrievers.local import LocalRetriever


def bytes_in(pipe: Any) -> int:
    found: tuple[int] = struct.unpack("i", fcntl.ioctl(pipe.fileno(), termios.FIONREAD, bytes(4)))
    return found[0]


if __name__ == "__main__":
    loader = StreamingLoader(StreamingDataset(LocalRetriever(sys.argv[1])), 1, num_workers=1)
    steps = iter(loader)
    next(steps)
    kept: Any = loader._workers._kept
    pipe = kept[1]._iterator._worker_result_queue._reader
    while not bytes_in(pipe):
        time.sleep(0.01)
    loader.close()
    try:
        next(steps)
    except RuntimeError as error:
        sys.stdout.write(str(error))
