"""The command line: `audiomdb`, or `python -m audiomdb.cli`. A face over the public API.

Each command is a file of this room. They import the library when they run, so that `--help` and
a mistyped option are answered at once.
"""

from __future__ import annotations

from audiomdb.cli.app import main

__all__ = ["main"]
