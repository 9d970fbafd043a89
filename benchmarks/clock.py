"""Seconds on the clock and of processor time, of this process and all of its descendants."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import family

__all__ = ["Reading", "now"]

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Reading:
    """A moment on both clocks, or the time between two moments.

    Attributes:
        wall_s: Seconds on the clock.
        cpu_s: Seconds of processor, workers that still run included (in steps of 10 ms each).
    """

    wall_s: float
    cpu_s: float

    def since(self, earlier: Reading) -> Reading:
        """The time that has passed since an earlier reading."""
        return Reading(self.wall_s - earlier.wall_s, self.cpu_s - earlier.cpu_s)


def now() -> Reading:
    """Look at both clocks."""
    return Reading(time.perf_counter(), _own() + sum(map(_ticks, family(os.getpid())[1:])))


def _own() -> float:
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def _ticks(pid: int) -> float:
    """Processor time of a child that runs, and of its children that have ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    # The name, in parentheses, may hold spaces.
    fields = text[text.rindex(")") + 2 :].split()
    return sum(map(int, fields[11:15])) * _TICK_S
