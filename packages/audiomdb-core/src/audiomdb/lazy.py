"""Import submodules on first access to one of their names, and compute properties once.

Names of a package are looked up by its `__getattr__` (PEP 562).

Every process that loads data imports the library anew. Training often reads shards in place, and
then need not import the code that writes or caches shards (docs/decisions/0026).

What is imported late may be imported by a thread while another one forks. Python's lock of the
module would then stay locked in the child, which would wait for ever when it imports the module
itself. Such imports therefore happen within `importing`, which no fork interrupts.

No module of the library imports lazy names at its top: it could wait there for `importing`, with
its own module locked, while the thread that is within `importing` waits for that module.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from audiomdb.locks import RLock

__all__ = ["cached_property", "importing", "lazily"]

if TYPE_CHECKING or sys.version_info >= (3, 12):
    from functools import cached_property  # noqa: TID251
else:

    class cached_property:  # noqa: N801
        """A property that is computed once; `functools.cached_property` as of Python 3.12.

        Before, that had a lock, the same for all objects of a class. If a thread held it during a
        fork, the child would wait for ever when it asks for the property of any object.
        """

        def __init__(self, compute: Callable[[Any], Any]) -> None:
            self._compute = compute
            self.__doc__ = compute.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        def __get__(self, instance: object, owner: type | None = None) -> Any:  # noqa: ANN401
            if instance is None:
                return self
            value = vars(instance)[self._name] = self._compute(instance)
            return value


_importing = RLock()


def importing() -> AbstractContextManager[object]:
    """Return a context manager within which no other thread forks this process.

    Enter it for the first import only, or for as little. The garbage collector may end a thread in
    the middle of any import, and would wait for one that waits here for no reason.
    """
    _install_fork_hook()
    return _importing


@cache
def _install_fork_hook() -> None:
    if hasattr(os, "register_at_fork"):  # not on Windows, where datasets can be read in place
        # Forks take locks of these two as well, and modules do so while they are imported. What is
        # registered last is taken first; in the other order, both would wait for ever.
        import concurrent.futures.thread  # noqa: F401
        import logging  # noqa: F401

        os.register_at_fork(
            before=_importing.acquire,
            after_in_parent=_importing.release,
            after_in_child=_importing.release,
        )


def lazily(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` functions of a package with lazily imported names.

    Args:
        package: The `__name__` of the package.
        modules: Maps each name to the module of the package that defines it.
    """

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with importing():
            value: object = getattr(import_module(f"{package}.{modules[name]}"), name)
        setattr(sys.modules[package], name, value)  # later accesses bypass this function
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return get, names
