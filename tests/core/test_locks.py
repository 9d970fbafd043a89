"""Locks under interrupts."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from audiomdb import locks

PROGRAM = Path(__file__).parent / "programs" / "interrupted_locks.py"


@pytest.mark.parametrize("kind", locks.__all__)
def test_no_interrupt_leaves_a_lock_locked(kind: str) -> None:
    command = [sys.executable, str(PROGRAM), kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "the lock is free after each interrupt", done.stderr


def test_a_reentrant_lock_belongs_to_the_thread_that_holds_it() -> None:
    lock, entered = locks.RLock(), []
    with lock, lock:
        other = threading.Thread(target=lambda: entered.append(lock.acquire(blocking=False)))
        other.start()
        other.join()
    assert entered == [False]
    with locks.Lock() as taken:
        assert taken
    changed = threading.Condition(lock)
    with lock:
        assert not changed.wait(0.001)
