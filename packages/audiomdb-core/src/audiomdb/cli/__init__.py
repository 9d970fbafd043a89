"""The command line interface, `audiomdb` or `python -m audiomdb.cli`, a layer over the public API.

Each command is a module of this package. It imports the library only when it runs, so that `--help`
and usage errors respond immediately.
"""

from __future__ import annotations

from audiomdb.cli.app import main

__all__ = ["main"]
