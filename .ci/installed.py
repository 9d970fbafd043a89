"""Imports modules by name, and checks that they count as typed and that others are absent.

Run by nox inside an environment that holds built packages: `installed.py NAME... --absent NAME...`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType


def main() -> None:
    """Import the names given; stop with a sentence at what should not be there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--absent", nargs="*", default=[])
    options = parser.parse_args()
    modules = [importlib.import_module(name) for name in options.modules]
    untyped = [module.__name__ for module in modules if not is_typed(module)]
    if untyped:
        raise SystemExit(f"no py.typed where type checkers look for it: {', '.join(untyped)}")
    present = [name for name in options.absent if importlib.util.find_spec(name)]
    if present:
        raise SystemExit(f"installed, but nothing here should bring it: {', '.join(present)}")
    print(
        f"{len(options.modules)} modules imported, {len(options.absent)} absent as they should be"
    )


def is_typed(module: ModuleType) -> bool:
    """Return whether its folder or a package around it is marked: namespaces stand for nothing."""
    assert module.__file__ is not None, "every module named here is a file"
    folder = Path(module.__file__).parent
    while not (folder / "py.typed").exists():
        if not (folder / "__init__.py").exists():
            return False
        folder = folder.parent
    return True


if __name__ == "__main__":
    main()
