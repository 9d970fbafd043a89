"""Pulls into a mirror of an older dataset, each time killed a step later, until one gets through.

Arguments: the new dataset, the mirror, and a folder for copies of the mirror. A step is a change
of the names in its target; the pull that dies before its n-th leaves the copy `n`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from itertools import count
from pathlib import Path

from audiomdb.cli import main

STEPS = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree"}


def pull(target: Path, dies_at: int) -> int:
    steps = count(1)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        touched = any(str(argument).startswith(f"{target}") for argument in arguments[:2])
        if event in STEPS and touched and next(steps) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return main(["pull", sys.argv[1], str(target), "--replace", "--workers", "1"])


for number in range(1, 500):
    copy = Path(sys.argv[3], str(number))
    shutil.copytree(sys.argv[2], copy)
    child = os.fork()
    if child == 0:
        os._exit(pull(copy, number))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    if status == 0:
        break
else:
    raise SystemExit("no pull got through")
