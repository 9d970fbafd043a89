"""Takes a lock again and again, interrupted by signals, and tells whether one left it locked.

Argument: `Lock` or `RLock`, of `audiomdb.locks`.
"""

from __future__ import annotations

import signal
import sys
import threading

from audiomdb import locks

INTERRUPTS = 2000

awaited = False


def interrupt(*_: object) -> None:
    global awaited
    if awaited:
        awaited = False
        raise KeyboardInterrupt


def take(lock: threading.Lock) -> None:
    with lock:
        pass


def is_free(lock: threading.Lock) -> bool:
    found = []

    def probe() -> None:
        if lock.acquire(blocking=False):
            lock.release()
            found.append(True)

    other = threading.Thread(target=probe)
    other.start()
    other.join()
    return bool(found)


def main(lock: threading.Lock) -> None:
    global awaited
    for _ in range(INTERRUPTS):
        try:
            awaited = True
            while True:
                take(lock)
        except KeyboardInterrupt:
            if not is_free(lock):
                sys.exit("an interrupt has left the lock locked")
    sys.stdout.write("the lock is free after each interrupt")


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    main(getattr(locks, sys.argv[1])())
