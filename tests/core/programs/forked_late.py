# ruff: noqa: S102
"""A thread imports a module late, this process forks meanwhile, and the child needs it too.

Arguments: the module, code that runs before, and code that imports it. Prints the child's exit
status: 7 if it got through, and that of an alarm if it waited for ever.
"""

import os
import signal
import sys
import threading
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

name, before, work = sys.argv[1:]
begun, forked = threading.Event(), threading.Event()
names: dict[str, object] = {}


class Slow(PathFinder):
    @classmethod
    def find_spec(cls, found: str, *where: Any) -> ModuleSpec | None:
        if found != name:
            return None
        spec: Any = PathFinder.find_spec(found, *where)
        execute = spec.loader.exec_module

        def slowly(module: ModuleType) -> None:
            begun.set()
            forked.wait(1)  # a fork that can happen does so by now
            execute(module)

        spec.loader.exec_module = slowly
        return spec  # type: ignore[no-any-return]


exec(before, names)
assert name not in sys.modules
sys.meta_path.insert(0, Slow)
thread = threading.Thread(target=exec, args=(work, names))
thread.start()
assert begun.wait(300)
child = os.fork()
if child == 0:
    signal.alarm(20)
    exec(work, names)
    os._exit(7)
forked.set()
thread.join()
sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
