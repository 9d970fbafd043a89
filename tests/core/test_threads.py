from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from audiomdb.threads import Check, Stopped, ThreadPool, each

PROGRAMS = Path(__file__).parent / "programs"

GOING_ON = """
import threading
from contextlib import suppress
from audiomdb.threads import ThreadPool, Threads

def once_interrupted(method, before):
    interrupts = iter([KeyboardInterrupt])
    def call(*args):
        for interrupt in interrupts if before else ():
            raise interrupt
        method(*args)
        for interrupt in interrupts:
            raise interrupt
    return call

start, wake = threading.Thread.start, Threads.wake
for _ in range(50):
    for before in (False, True):
        pool = ThreadPool(2, "pool")
        threading.Thread.start = once_interrupted(start, before)
        Threads.wake = once_interrupted(wake, before)
        for _ in range(2):
            with suppress(KeyboardInterrupt):
                pool.submit(int)
        assert [pool.submit(int, text).result() for text in "123"] == [1, 2, 3]
        pool.shutdown()
print("all ended")
"""


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_an_interrupt_at_any_point_leaves_nothing_waiting_for_ever(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "interrupted_everywhere.py"), str(tmp_path / "dataset")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "uploads end wherever they are interrupted",
        "checks end wherever they are interrupted",
        "pulls end wherever they are interrupted",
        "reads end wherever they are interrupted",
    ]


def test_a_pool_survives_an_interrupt_while_taking_up_work() -> None:
    command = [sys.executable, "-c", GOING_ON]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.stdout, done.stderr) == ("all ended\n", "")


def test_the_garbage_collector_ends_iterations_wherever_it_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "collected_anywhere.py")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "in_a_thread_that_holds_the_lock_for_which_others_wait: True",
        "in_a_thread_that_holds_the_lock_of_a_log: True",
        "anywhere_in_the_thread_that_it_ends: True",
        "in_a_thread_that_prefetches: True",
        "in_a_thread_for_whose_start_another_waits: True",
        "in_a_thread_whose_lock_another_needs_that_has_a_lock_of_the_iteration: True",
    ]


@pytest.mark.parametrize("at", ["store", "processor", "lock"])
def test_a_process_exits_whatever_its_iteration_threads_are_doing(at: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "left_unfinished.py"), at, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("left\n", "", 0)


def test_work_runs_in_order_and_its_result_can_be_read_repeatedly() -> None:
    pool = ThreadPool(1, "pool-in-order")
    done: list[int] = []
    works = [pool.submit(done.append, number) for number in range(20)]
    assert [work.result() for work in works] == [None] * 20
    assert works[0].result() is None
    assert works[0].done()
    assert done == list(range(20))
    pool.shutdown()
    assert not [name for name in names() if name.startswith("pool-in-order")]


def test_the_error_of_work_is_raised_by_its_result() -> None:
    pool = ThreadPool(2, "pool")
    work = pool.submit(int, "no number")
    for _ in range(2):
        with pytest.raises(ValueError, match="no number"):
            work.result()
    pool.shutdown()


def test_a_pool_ends_after_its_work_or_drops_unstarted_work() -> None:
    done: list[int] = []
    pool = ThreadPool(1, "pool")
    for number in range(5):
        pool.submit(done.append, number)
    pool.shutdown()
    pool.shutdown()
    assert done == list(range(5))
    pool = ThreadPool(1, "pool")
    began, never = threading.Event(), threading.Event()

    def first() -> None:
        began.set()
        while not pool._works.empty():
            never.wait(0.001)
        done.append(5)

    pool.submit(first)
    cancelled = pool.submit(done.append, 6)
    pool.submit(done.append, 7)
    began.wait()
    cancelled.cancel()
    pool.shutdown(cancel_futures=True)
    assert done == list(range(6))


def test_a_pool_that_nobody_shuts_down_ends_its_threads() -> None:
    pool = ThreadPool(2, "pool-forgotten")
    pool.submit(int).result()
    assert len([name for name in names() if name.startswith("pool-forgotten")]) == 2
    del pool
    gc.collect()
    assert not [name for name in names() if name.startswith("pool-forgotten")]


def test_results_come_from_several_threads() -> None:
    meeting = threading.Barrier(3, timeout=300)

    def work(number: int, check: Check) -> int:
        check()
        meeting.wait()
        return number * number

    assert sorted(each(work, range(6), workers=3, name="each")) == [0, 1, 4, 9, 16, 25]
    assert list(each(work, [], workers=3, name="each")) == []


def test_the_first_failure_ends_the_rest() -> None:
    stopped = threading.Event()
    begun = threading.Event()

    def work(number: int, check: Check) -> None:
        if number == 0:
            begun.wait(300)
            raise KeyError("zero")
        begun.set()
        try:
            while True:
                check()
        except Stopped:
            stopped.set()
            raise

    with pytest.raises(KeyError, match="zero"):
        list(each(work, range(9), workers=2, name="each"))
    assert stopped.wait(300)


def test_a_thread_that_hangs_is_not_waited_for() -> None:
    release = threading.Event()

    def work(number: int, _: Check) -> int:
        if number:
            release.wait()
        return number

    results = each(work, range(2), workers=2, name="each", give_up=True)
    assert next(results) == 0
    results.close()
    assert threading.active_count() > 1
    release.set()
