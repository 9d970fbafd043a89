"""Add notes (PEP 678) to exceptions, including on Python 3.10, to say what was being done."""

from __future__ import annotations

import sys

__all__ = ["add_note", "with_notes"]


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an exception, unless the exception already has it.

    Python 3.10 does not show notes in tracebacks, but the command line of this library does.
    """
    if note in getattr(error, "__notes__", ()):
        return
    if sys.version_info >= (3, 11):
        error.add_note(note)
    else:
        error.__notes__ = [*getattr(error, "__notes__", ()), note]


def with_notes(error: BaseException) -> str:
    """Return the message of an exception, followed by its notes in parentheses."""
    notes = (f"({note})" for note in getattr(error, "__notes__", ()))
    return " ".join([str(error), *notes])
