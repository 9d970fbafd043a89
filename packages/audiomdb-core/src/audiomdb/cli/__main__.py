"""Run the command line interface as `python -m audiomdb.cli`."""

from __future__ import annotations

import sys

from audiomdb.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
