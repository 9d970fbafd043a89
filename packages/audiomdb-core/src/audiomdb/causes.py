"""Tell errors about a sample from errors of the environment, which say nothing about it."""

from __future__ import annotations

__all__ = ["is_of_the_environment"]

_ENVIRONMENT = (OSError, MemoryError, ImportError, SystemExit)
"""Errors of a server, a disk, the machine."""

_LONGEST_CHAIN = 100
"""Maximum number of causes to follow, because an exception can be its own cause."""


def is_of_the_environment(error: BaseException) -> bool:
    """Return whether a processor's exception is, or was caused by, an error of its environment.

    A ValueError, whatever its cause, concerns the sample: a processor raises one to say so, and an
    AudioError is one.
    """
    cause: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if cause is None or isinstance(cause, ValueError):
            return False
        if isinstance(cause, _ENVIRONMENT):
            return True
        cause = cause.__cause__
    return False
