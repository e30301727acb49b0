"""The pool of worker threads itself, called as the runtime and compiled code call it."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from relaxc.artifact import read_artifact
from relaxc.runtime.library import load_model

CALL = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p
)
BODY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
WAIT_S = 60  # only a failing test waits that long


@pytest.fixture(scope="module")
def pool(relu_artifact: Path) -> ctypes.CDLL:
    return load_model(read_artifact(relu_artifact), None)[1]


def call(pool: ctypes.CDLL, threads: int, cores: int, work: Callable[[], object]) -> None:
    """Run `work` as a compiled function, which may launch loops."""
    failures: list[BaseException] = []

    def guarded(*_arguments: object) -> int:
        try:
            work()
        except BaseException as err:
            failures.append(err)
        return 0

    pool.relaxc_pool_call(threads, cores, CALL(guarded), None, None, 0, None)
    assert not failures, failures[0]


def loop(pool: ctypes.CDLL, tasks: int, body: Callable[[int], object]) -> int:
    """Run a parallel loop; the status that compiled code would see."""

    def guarded(task: int, *_arguments: object) -> int:
        try:
            body(task)
        except BaseException:
            return -1
        return 0

    status: int = pool.relaxc_pool_launch(BODY(guarded), None, tasks)
    return status


def meet(pool: ctypes.CDLL, threads: int) -> set[int]:
    """The threads that work on a loop which ends only when as many as asked have met."""
    barrier = threading.Barrier(threads)
    seen: set[int] = set()

    def body(_task: int) -> None:
        seen.add(threading.get_ident())
        barrier.wait(WAIT_S)

    def work() -> None:
        assert loop(pool, threads, body) == 0

    call(pool, threads, threads, work)
    return seen


def test_every_task_runs_once(pool: ctypes.CDLL) -> None:
    done: list[int] = []
    call(pool, 3, 3, lambda: loop(pool, 100, done.append))
    assert sorted(done) == list(range(100))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_as_many_threads_work_as_were_asked_for(pool: ctypes.CDLL, threads: int) -> None:
    assert len(meet(pool, threads)) == threads


def test_a_failing_task_fails_its_loop(pool: ctypes.CDLL) -> None:
    statuses: list[int] = []

    def work() -> None:
        statuses.append(loop(pool, 20, lambda task: 1 / (task - 7)))
        statuses.append(loop(pool, 20, lambda task: 1 / (task - 20)))

    call(pool, 2, 2, work)
    assert statuses == [-1, 0]


def test_a_loop_inside_of_a_loop_runs_on_its_thread(pool: ctypes.CDLL) -> None:
    inner: list[bool] = []

    def body(_task: int) -> None:
        outer = threading.get_ident()
        loop(pool, 1, lambda _: inner.append(threading.get_ident() == outer))

    call(pool, 2, 2, lambda: loop(pool, 8, body))
    assert inner == [True] * 8


def test_workers_join_only_while_cores_are_free(pool: ctypes.CDLL) -> None:
    seen: set[int] = set()

    def inner() -> None:  # two callers occupy both cores
        loop(pool, 32, lambda _: seen.add(threading.get_ident()))

    call(pool, 2, 2, lambda: beside(functools.partial(call, pool, 2, 2, inner)))
    assert len(seen) == 1


def beside(work: Callable[[], None]) -> None:
    """Run in another thread, to its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_a_worker_makes_way_for_a_second_caller(pool: ctypes.CDLL) -> None:
    """Two cores, a caller and a worker inside of a long loop, then another caller."""
    both = threading.Barrier(3)  # the loop's two threads, and the second caller
    arrived = threading.Event()
    first: set[int] = set()
    later: list[int] = []

    def body(_task: int) -> None:
        if not arrived.is_set() and threading.get_ident() not in first:
            first.add(threading.get_ident())
            both.wait(WAIT_S)
            assert arrived.wait(WAIT_S)
        else:
            later.append(threading.get_ident())

    def second() -> None:
        arrived.set()
        first_caller.join(WAIT_S)

    statuses: list[int] = []
    first_caller = threading.Thread(
        target=lambda: call(pool, 2, 2, lambda: statuses.append(loop(pool, 64, body)))
    )
    first_caller.start()
    both.wait(WAIT_S)
    call(pool, 2, 2, second)
    assert statuses == [0]
    assert len(first) == 2
    assert set(later) == {first_caller.ident}
    assert len(later) == 62


def test_callers_of_the_parent_do_not_count_in_a_forked_child(pool: ctypes.CDLL) -> None:
    """Not even those that never needed a worker."""
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        inside.set()
        leave.wait(WAIT_S)

    caller = threading.Thread(target=lambda: call(pool, 1, 2, work))
    caller.start()
    assert inside.wait(WAIT_S)
    child = os.fork()
    if child == 0:
        os._exit(0 if len(meet(pool, 2)) == 2 else 1)
    _, status = os.waitpid(child, 0)
    leave.set()
    caller.join()
    assert os.waitstatus_to_exitcode(status) == 0
