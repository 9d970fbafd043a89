"""Merges datasets again and again, each time killed a step later, until one merge gets through.

Arguments: a folder for the outputs, "link" or "copy", and the datasets. A step is anything that the
merge does to its output; the merge that dies in its n-th makes the folder `n`.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from pathlib import Path

from audiomdb.shards import merge_datasets

STEPS = {"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}


def merge(output: Path, dies_at: int) -> None:
    steps = count(1)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        touched = any(str(argument).startswith(f"{output}") for argument in arguments[:2])
        if event in STEPS and touched and next(steps) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    merge_datasets(sys.argv[3:], output, name="merged", copy=sys.argv[2] == "copy")


for number in count(1):
    child = os.fork()
    if child == 0:
        merge(Path(sys.argv[1], str(number)), number)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    if status == 0:
        break
