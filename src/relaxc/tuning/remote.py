"""Candidates on other machines: built here, measured there, by TVM's RPC tracker and servers.

    python -m tvm.exec.rpc_tracker --port 9190                                here
    python -m tvm.exec.rpc_server --tracker HOST:9190 --key board             on each device

Every candidate gets a session of its own, which its server runs in a process of its own; one that
crashes or hangs takes down nothing else. Devices with the same key work side by side.
"""

from __future__ import annotations

import queue
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import tvm
from tvm import rpc

from relaxc.errors import OptionError, TargetError
from relaxc.targets.llvm.backend import LlvmBackend
from relaxc.tuning.job import Job, arguments, difference, random_data
from relaxc.tuning.judging import judged
from relaxc.tuning.measure import MeasureOptions

_CONNECT_S = 5.0
# Empties the caches of what a kernel reads besides its data.
_FLUSH = "cache_flush_cpu_non_first_arg"


class RemoteRunner:
    """All devices of a tracker with one key.

    Args:
        backend: what to build for.
        tracker: `host:port`.
        key: of the devices.
        options: how to measure.

    Raises:
        OptionError: the tracker's address makes no sense.
        TargetError: there is no tracker, or it knows no such device.
    """

    def __init__(
        self, backend: LlvmBackend, tracker: str, key: str, options: MeasureOptions
    ) -> None:
        self._backend, self._key, self._options = backend, key, options
        self._address = parse_address(tracker)
        self._folder = tempfile.TemporaryDirectory(prefix="relaxc-")
        self._untuned: Job | None = None
        self._base = Path()
        self._built = 0
        self._lock = threading.Lock()
        self.devices = self._count_devices(tracker)

    def __enter__(self) -> RemoteRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def _count_devices(self, tracker: str) -> int:
        try:
            # TVM itself would try for a minute.
            socket.create_connection(self._address, _CONNECT_S).close()
            servers = rpc.connect_tracker(*self._address).summary()["server_info"]
        except (OSError, RuntimeError) as err:
            first = str(err).strip().splitlines()[0]
            raise TargetError(f"no RPC tracker answers at `{tracker}`: {first}") from err
        keys = [str(server["key"]).removeprefix("server:") for server in servers]
        if self._key not in keys:
            known = ", ".join(f"`{key}`" for key in sorted(set(keys))) or "none"
            raise TargetError(
                f"the tracker `{tracker}` knows no device with key `{self._key}`; it has {known}"
            )
        return keys.count(self._key)

    def begin(self, untuned: Job) -> dict[str, Any]:
        """Begin a task: see whether its untuned kernel runs, and how long that takes."""
        self._untuned = untuned
        try:
            self._base = self._library(untuned)
        except Exception as err:
            return _failed(err)
        return self._measured(untuned)

    def trials(self, candidates: Iterable[Job]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Answers to candidates, with their places, as devices give them."""
        waiting: queue.SimpleQueue[tuple[int, Job]] = queue.SimpleQueue()
        answers: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
        count = 0
        for place, job in enumerate(candidates):
            waiting.put((place, job))
            count += 1

        def work() -> None:
            while True:
                try:
                    place, job = waiting.get_nowait()
                except queue.Empty:
                    return
                answers.put((place, self._measured(job)))

        for _ in range(min(self.devices, count)):
            threading.Thread(target=work, daemon=True).start()
        for _ in range(count):
            yield answers.get()

    def _measured(self, job: Job) -> dict[str, Any]:
        assert self._untuned is not None, "a task begins with its untuned kernel"
        try:
            with self._lock:  # LLVM's options are shared by all threads
                path = self._library(job)
            timeout_s = int(self._options.timeout_s) + 1
            session = rpc.connect_tracker(*self._address).request(
                self._key, session_timeout=timeout_s, max_retry=3
            )
            return self._judged(session, path, job)
        except Exception as err:  # whatever it is, it is this candidate's
            # A session that ends in the middle has been killed, by itself or for taking too long.
            return _failed(err)

    def _library(self, job: Job) -> Path:
        self._built += 1
        path = Path(self._folder.name, f"{self._built}.so")
        self._backend.build_kernel(job.func, path)
        return path

    def _judged(self, session: Any, built: Path, job: Job) -> dict[str, Any]:
        device = session.cpu(0)
        assert self._untuned is not None
        data = random_data(job)
        functions: list[Any] = []
        calls: list[list[Any]] = []
        for path, one in ((self._base, self._untuned), (built, job)):
            session.upload(str(path))
            module = session.load_module(path.name)
            args = [
                a if isinstance(a, int) else tvm.runtime.tensor(a, device)
                for a in arguments(one, data)
            ]
            module["kernel"](*args)
            functions.append(
                module.time_evaluator("kernel", device, number=1, repeat=1, f_preproc=_FLUSH)
            )
            calls.append(args)
        built.unlink()
        wrong = difference(calls[1][-1].numpy(), calls[0][-1].numpy())
        if wrong is not None:
            return {"outcome": "wrong", "detail": wrong}
        untuned, candidate = (lambda f=f, a=a: float(f(*a).mean) for f, a in zip(functions, calls))
        return judged(untuned, candidate, self._options.pairs, self._options.least_s)


def _failed(err: Exception) -> dict[str, Any]:
    first = (str(err).strip().splitlines() or [type(err).__name__])[0]
    return {"outcome": "failed", "detail": first[:200]}


def parse_address(text: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        OptionError: it is no such thing.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise OptionError(f"`{text}` is no address of a tracker; write `host:port`")
    return host, int(port)
