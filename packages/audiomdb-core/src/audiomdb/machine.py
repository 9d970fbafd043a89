"""Ask about the machine: its CPU cores, and what the launcher of this process has set."""

from __future__ import annotations

import os

__all__ = ["env_number", "usable_cores"]


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def env_number(name: str) -> int:
    """Return the number that a variable of the environment is set to, or 0 if it is no number."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0
