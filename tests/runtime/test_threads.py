"""Many callers, several models, forks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import MODELS

import relaxc
from relaxc import cpu


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mnist") / "mnist.rxc"
    relaxc.compile(MODELS / "mnist_cnn" / "mnist.onnx", path)
    return path


def images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((1, 1, 28, 28), np.float32) * 255 for _ in range(count)]


def in_threads(count: int, work: Callable[[int], None]) -> None:
    failures: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            work(index)
        except BaseException as err:
            failures.append(err)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


@pytest.mark.parametrize("threads", [1, 2])
def test_many_threads_may_call_one_model(mnist: Path, threads: int) -> None:
    model = relaxc.load(mnist, threads=threads)
    inputs = images(16)
    expected = [model(x).copy() for x in inputs]

    def work(index: int) -> None:
        for step in range(60):
            pick = (index + step) % len(inputs)
            np.testing.assert_array_equal(model(inputs[pick]), expected[pick])

    in_threads(12, work)


def test_models_may_be_loaded_in_many_threads(mnist: Path, relu_artifact: Path) -> None:
    x = images(1)[0]
    expected = relaxc.load(mnist)(x)

    def work(index: int) -> None:
        if index % 2:
            np.testing.assert_array_equal(relaxc.load(mnist)(x), expected)
        else:
            relaxc.load(relu_artifact)(np.ones((1, 3), np.float32))

    in_threads(8, work)


def native_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir())) - threading.active_count()


def test_all_models_share_one_pool_of_workers(mnist: Path) -> None:
    cores = cpu.available_cores()
    before = native_threads()
    models = [relaxc.load(mnist, threads=cores) for _ in range(3)]
    x = images(1)[0]

    def work(index: int) -> None:
        for _ in range(20):
            models[index % 3](x)

    in_threads(9, work)
    assert native_threads() - before <= cores - 1


def test_a_model_works_in_a_forked_child(mnist: Path) -> None:
    model = relaxc.load(mnist, threads=2)
    x = images(1)[0]
    expected = model(x).copy()
    child = os.fork()
    if child == 0:
        good = all(np.array_equal(model(x), expected) for _ in range(20))
        os._exit(0 if good else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    np.testing.assert_array_equal(model(x), expected)


@pytest.mark.parametrize("size", [1, 3])
def test_a_fork_while_others_compute(mnist: Path, size: int) -> None:
    """The gate of callers that do not exist in the child must not stay shut."""
    model = relaxc.load(mnist, threads=1)
    x = images(1)[0]
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            model(x)

    callers = [threading.Thread(target=busy) for _ in range(size)]
    for caller in callers:
        caller.start()
    from relaxc.runtime.threads import gate

    child = os.fork()
    if child == 0:
        free = all(gate().acquire(timeout=5) for _ in range(cpu.available_cores()))
        os._exit(0 if free else 1)
    _, status = os.waitpid(child, 0)
    stop.set()
    for caller in callers:
        caller.join()
    assert os.waitstatus_to_exitcode(status) == 0
