"""Stops a test run while a shared room holds an `__init__.py`.

Such a file makes Python take that one folder for the whole package, so that every module another
distribution adds to the room can no longer be imported. The errors that follow do not say so.
"""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_ROOMS = (".", "converters", "data", "processors", "retrievers", "uploaders")


def pytest_configure() -> None:
    """Refuse to collect anything while the namespace is broken."""
    for namespace in sorted(Path(__file__).parent.glob("packages/*/src/audiomdb")):
        for room in SHARED_ROOMS:
            stray = namespace / room / "__init__.py"
            if stray.exists():
                raise pytest.UsageError(
                    f"{stray} closes a room that several distributions share "
                    "(docs/decisions/0001-namespace-packages.md): delete it"
                )
