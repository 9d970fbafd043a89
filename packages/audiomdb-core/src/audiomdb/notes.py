"""Notes on exceptions: what was being done, one line each (PEP 678), from Python 3.10 on."""

from __future__ import annotations

import sys

__all__ = ["add_note"]


def add_note(error: BaseException, note: str) -> None:
    """Add a line to what is said of an exception.

    Python 3.10 does not show such lines itself, but the command line does.
    """
    if sys.version_info >= (3, 11):
        error.add_note(note)
    else:
        error.__notes__ = [*getattr(error, "__notes__", ()), note]
