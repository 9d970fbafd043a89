"""Threads do the work; results come in order, and nothing is left behind."""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiomdb.stream.ahead import Room, in_order

SMALL = Room(results=8, held_bytes=1000, chunk_tasks=4, chunk_bytes=100)


def square(number: int) -> int:
    return number * number


def ahead(
    work: Callable[[Any], Any],
    tasks: Any,
    num_threads: int = 2,
    room: Room = SMALL,
    size: int = 1,
    at_least: int = 0,
) -> Iterator[Any]:
    return in_order(
        work,
        tasks,
        num_threads=num_threads,
        weigh=lambda _: 1,
        size=lambda _: size,
        room=room,
        at_least=lambda: at_least,
    )


def our_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("audiomdb-stream")]


@given(
    sizes=st.lists(st.integers(0, 300), max_size=60),
    num_threads=st.integers(0, 4),
    results=st.integers(1, 20),
    chunk_tasks=st.integers(1, 8),
)
def test_results_come_in_the_order_of_the_tasks(
    sizes: list[int], num_threads: int, results: int, chunk_tasks: int
) -> None:
    room = Room(results=results, held_bytes=500, chunk_tasks=chunk_tasks, chunk_bytes=200)
    found = in_order(
        lambda task: task,
        list(enumerate(sizes)),
        num_threads=num_threads,
        weigh=lambda task: task[1],
        size=lambda task: task[1],
        room=room,
    )
    assert list(found) == list(enumerate(sizes))
    assert our_threads() == []


def test_a_slow_first_task_delays_but_does_not_reorder() -> None:
    others_done = threading.Event()

    def work(task: int) -> int:
        if task == 1:
            assert others_done.wait(300)
        if task == 5:
            others_done.set()
        return task

    assert list(ahead(work, range(20))) == list(range(20))


def test_threads_look_ahead_while_the_consumer_rests() -> None:
    reached = threading.Event()

    def work(task: int) -> int:
        if task == 7:
            reached.set()
        return task

    results = ahead(work, count())
    assert next(results) == 0
    assert reached.wait(300)
    results.close()  # type: ignore[attr-defined]


def test_threads_look_ahead_as_far_after_results_were_taken() -> None:
    reached = threading.Event()

    def work(task: int) -> int:
        if task == 40:
            reached.set()
        return task

    room = Room(results=8, held_bytes=1000, chunk_tasks=1, chunk_bytes=100)
    results = ahead(work, count(), size=400, room=room)
    assert [next(results) for _ in range(40)] == list(range(40))
    assert reached.wait(300)
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [1, 400])
def test_looking_ahead_is_bounded(size: int) -> None:
    begun: list[int] = []

    def work(task: int) -> int:
        begun.append(task)
        return task

    in_flight = 2 * SMALL.chunk_tasks
    held = SMALL.results if size == 1 else SMALL.held_bytes // size + 1
    for done, _ in enumerate(ahead(work, range(500), size=size)):
        assert len(begun) - done <= held + in_flight + SMALL.chunk_tasks


def test_looking_ahead_is_bounded_by_the_size_of_what_is_ready() -> None:
    begun: list[int] = []
    ready, far = threading.Event(), threading.Event()

    def work(task: int) -> int:
        begun.append(task)
        if len(begun) == 3:
            ready.set()
        if len(begun) == 12:
            far.set()
        return task

    room = Room(results=1000, held_bytes=1000, chunk_tasks=1, chunk_bytes=100)
    results = ahead(work, count(), size=400, room=room)
    assert next(results) == 0
    assert ready.wait(300)
    assert not far.wait(0.2)
    results.close()  # type: ignore[attr-defined]


def test_heavy_tasks_are_taken_one_by_one() -> None:
    drawn: list[int] = []
    drawn_before_done: list[int] = []
    reached = threading.Event()

    def tasks() -> Iterator[int]:
        for task in count():
            drawn.append(task)
            yield task

    def work(task: int) -> int:
        if task:  # the consumer itself does the first one
            drawn_before_done.append(len(drawn) - task)
        if task == 6:
            reached.set()
        return task

    results = in_order(
        work,
        tasks(),
        num_threads=1,
        weigh=lambda _: SMALL.chunk_bytes,
        size=lambda _: 1,
        room=SMALL,
    )
    assert next(results) == 0
    assert reached.wait(300)
    results.close()
    assert max(drawn_before_done) <= 2, "one, and the next one, which is too heavy beside it"


@pytest.mark.parametrize("size", [1, 400])
def test_threads_look_ahead_for_at_least_one_whole_batch(size: int) -> None:
    """More than room allows: a batch of large clips must be whole when it is asked for."""
    begun: list[int] = []
    at_least, reached = 50, threading.Event()

    def work(task: int) -> int:
        begun.append(task)
        if len(begun) == at_least:
            reached.set()
        return task

    results = ahead(work, range(500), size=size, at_least=at_least)
    assert next(results) == 0
    assert reached.wait(300)
    most = at_least + 2 * SMALL.chunk_tasks + SMALL.chunk_tasks
    for done, _ in enumerate(results):
        assert len(begun) - done <= 1 + most


def test_each_result_taken_starts_another_task_of_the_next_batch() -> None:
    """Not only while threads happen to be at it: however much they hold, and however fast."""
    at_least, progress = 6, threading.Condition()
    begun = [0]

    def work(number: int) -> int:
        with progress:
            begun[0] += 1
            progress.notify_all()
        return number

    results = ahead(work, range(60), size=1 << 30, at_least=at_least, num_threads=1)
    for taken, _ in enumerate(results, 1):
        with progress:
            wanted = min(60, taken + at_least)
            assert progress.wait_for(lambda wanted=wanted: begun[0] >= wanted, timeout=300)  # type: ignore[misc]


@pytest.mark.parametrize("slow", range(12))
def test_tasks_of_the_first_batch_do_not_queue_behind_a_slow_one(slow: int) -> None:
    begun: set[int] = set()
    rest = threading.Event()

    def work(task: int) -> int:
        begun.add(task)
        if begun >= set(range(12)):
            rest.set()
        if task == slow:
            assert rest.wait(300), f"only {begun} were begun beside {slow}"
        return task

    assert list(ahead(work, range(40), room=Room(), at_least=12)) == list(range(40))


@pytest.mark.parametrize("num_threads", [0, 1, 3])
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_exception_is_raised_unchanged_in_its_place(
    num_threads: int, kind: type[BaseException]
) -> None:
    error = kind("task 23")

    def work(task: int) -> int:
        if task == 23:
            raise error
        return task

    results = ahead(work, count(), num_threads)
    seen = [next(results) for _ in range(23)]
    assert seen == list(range(23))
    with pytest.raises(kind) as caught:
        next(results)
    assert caught.value is error
    assert our_threads() == []
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_an_exception_of_the_task_iterator_is_raised_in_its_place(num_threads: int) -> None:
    def tasks() -> Iterator[int]:
        yield from range(10)
        raise LookupError("no more of these")

    results = ahead(square, tasks(), num_threads)
    assert [next(results) for _ in range(10)] == [n * n for n in range(10)]
    with pytest.raises(LookupError, match="no more"):
        next(results)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_stray_stop_iteration_is_not_the_end(num_threads: int) -> None:
    def work(task: int) -> int:
        if task == 3:
            raise StopIteration
        return task

    with pytest.raises(RuntimeError, match="StopIteration"):
        list(ahead(work, range(10), num_threads))


def test_threads_start_with_the_first_result_and_end_with_the_last() -> None:
    results = ahead(square, range(100))
    assert our_threads() == []
    next(results)
    assert our_threads() != []
    assert len(list(results)) == 99
    assert our_threads() == []


def test_closing_ends_the_threads() -> None:
    results = ahead(square, count())
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert our_threads() == []


def test_no_task_is_begun_after_closing() -> None:
    begun: list[int] = []
    reached, closing = threading.Event(), threading.Event()

    def work(task: int) -> int:
        if task >= 40:  # in the middle of a chunk
            begun.append(task)
            reached.set()
            assert closing.wait(300)
        return task

    results = in_order(
        work,
        count(),
        num_threads=1,
        weigh=lambda _: 1,
        size=lambda _: 1,
        room=SMALL,
        before_close=closing.set,
    )
    assert [next(results) for _ in range(36)] == list(range(36))
    assert reached.wait(300)
    results.close()
    assert begun == [40]


def test_dropping_the_iterator_ends_the_threads() -> None:
    results = ahead(square, count())
    next(results)
    del results
    gc.collect()
    assert our_threads() == []


@pytest.mark.parametrize("fork", [False, True])
def test_a_program_that_leaves_an_iterator_unfinished_ends(fork: bool) -> None:
    code = f"""
        import os
        from itertools import count
        from audiomdb.stream.ahead import in_order

        results = in_order(abs, count(), num_threads=2, weigh=abs, size=lambda _: 8)
        next(results)
        if {fork} and (child := os.fork()):
            assert os.waitpid(child, 0)[1] == 0
            next(results)
    """
    options = ["-W", "ignore::DeprecationWarning"]  # of a fork beside threads
    command = [sys.executable, *options, "-c", textwrap.dedent(code)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_iterator_in_a_cycle_is_collected_too() -> None:
    cycle: list[Any] = [ahead(square, count())]
    cycle.append(cycle)
    next(cycle[0])
    del cycle
    gc.collect()
    assert our_threads() == []


class TaskError(Exception):
    pass


@pytest.mark.parametrize("num_threads", [0, 2])
def test_an_error_is_freed_without_the_garbage_collector(num_threads: int) -> None:
    # Its traceback holds samples, and with them mappings of shards.
    def work(task: int) -> int:
        if task == 5:
            raise TaskError
        return task

    def consume() -> weakref.ref[TaskError]:
        try:
            list(ahead(work, range(10), num_threads))
        except TaskError as error:
            return weakref.ref(error)
        raise AssertionError

    gc.disable()
    try:
        assert consume()() is None
    finally:
        gc.enable()


def _next_in_child(results: Iterator[int], answers: Any) -> None:
    try:
        next(results)
    except RuntimeError as error:
        answers.put(str(error))


def test_a_forked_process_gets_an_error_that_the_threads_are_gone() -> None:
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    results = ahead(square, count())
    next(results)  # the first chunk is one task: the child has to ask for the next
    child = fork.Process(target=_next_in_child, args=(results, answers))
    child.start()
    assert "call iter() here" in answers.get()
    child.join(300)
    assert child.exitcode == 0
    assert next(results) == 1
    results.close()  # type: ignore[attr-defined]
