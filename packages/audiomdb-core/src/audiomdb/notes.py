"""Notes on exceptions: what was being done, one line each (PEP 678), from Python 3.10 on."""

from __future__ import annotations

import sys

__all__ = ["add_note", "with_notes"]


def add_note(error: BaseException, note: str) -> None:
    """Add a line to what is said of an exception, once.

    Python 3.10 does not show such lines itself, but the command line does.
    """
    if note in getattr(error, "__notes__", ()):
        return
    if sys.version_info >= (3, 11):
        error.add_note(note)
    else:
        error.__notes__ = [*getattr(error, "__notes__", ()), note]


def with_notes(error: BaseException) -> str:
    """The error's text, its notes in brackets after it."""
    notes = (f"({note})" for note in getattr(error, "__notes__", ()))
    return " ".join([str(error), *notes])
