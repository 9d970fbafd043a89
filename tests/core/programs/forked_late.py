"""A thread imports a package late, this process forks meanwhile, and the child needs it too.

Arguments: the package or module, what is imported before, and what imports it. Prints the child's
exit status: 7 if it got through, and that of an alarm if it waited for ever.
"""

import os
import signal
import sys
import threading

name, before, work = sys.argv[1:]
begun, forked = threading.Event(), threading.Event()
names: dict[str, object] = {}


class Slow:
    @staticmethod
    def find_spec(found: str, *_: object) -> None:
        if found == name:
            begun.set()
            forked.wait(1)  # a fork that can happen does so by now


exec(before, names)
assert name not in sys.modules
sys.meta_path.insert(0, Slow)  # type: ignore[arg-type]
thread = threading.Thread(target=exec, args=(work, names))
thread.start()
assert begun.wait(60)
child = os.fork()
if child == 0:
    signal.alarm(20)
    exec(work, names)
    os._exit(7)
forked.set()
thread.join()
sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
