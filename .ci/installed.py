"""Imports modules by name, and checks that others cannot be imported.

Run by nox inside an environment that holds built packages: `installed.py NAME... --absent NAME...`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util


def main() -> None:
    """Import the names given; stop with a sentence at what should not be there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--absent", nargs="*", default=[])
    options = parser.parse_args()
    for name in options.modules:
        importlib.import_module(name)
    present = [name for name in options.absent if importlib.util.find_spec(name)]
    if present:
        raise SystemExit(f"installed, but nothing here should bring it: {', '.join(present)}")
    print(
        f"{len(options.modules)} modules imported, {len(options.absent)} absent as they should be"
    )


if __name__ == "__main__":
    main()
