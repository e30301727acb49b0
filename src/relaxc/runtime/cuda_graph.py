"""Whole calls recorded as CUDA graphs, and replayed.

A graph holds the addresses that it was recorded with. Inputs on the GPU usually lie where they lay
before, so that there is a graph for each of a few places; others are copied to places of our own,
for which there is one as well. Results lie in memory of the graph: it can be replayed when nobody
holds them any more, else there is another.

The compiled code does its part: intermediate results stay where they are from call to call (the
artifact says so: `replayable`). The first call is not recorded; it allocates and loads what is
needed.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from relaxc.runtime import ffi
from relaxc.runtime.cuda import Gpu
from relaxc.runtime.device_tensor import DeviceTensor

Place = tuple[int, ...]
# Places that are remembered, and graphs that are kept: each takes some 100 KB and its results.
_MOST_PLACES, _MOST_GRAPHS = 64, 16


# Of streams: waits for nobody. Of recordings: other threads may go on, and memory be allocated.
_NON_BLOCKING, _RELAXED = 1, 2


class Graph:
    """Launches that were recorded.

    Args:
        gpu: where they run.
        launches: does them, on the current stream; it must not wait for the GPU.

    Raises:
        FfiError: it did what cannot be recorded.
    """

    def __init__(self, gpu: Gpu, launches: Callable[[], None]) -> None:
        self._gpu = gpu
        self._handle = ctypes.c_void_p()
        stream, graph = ctypes.c_void_p(), ctypes.c_void_p()
        # The default stream cannot be recorded.
        gpu.call("cudaStreamCreateWithFlags", ctypes.byref(stream), _NON_BLOCKING)
        try:
            gpu.call("cudaStreamBeginCapture", stream, _RELAXED)
            try:
                with ffi.current_stream(ffi.CUDA, gpu.index, stream):
                    launches()
            finally:
                gpu.call("cudaStreamEndCapture", stream, ctypes.byref(graph))
            gpu.call("cudaGraphInstantiate", ctypes.byref(self._handle), graph, 0)
        finally:
            if graph:
                gpu.call("cudaGraphDestroy", graph)
            gpu.call("cudaStreamDestroy", stream)

    def launch(self) -> None:
        """Do it again, on the default stream."""
        self._gpu.call("cudaGraphLaunch", self._handle, None)

    def __del__(self) -> None:
        if self._handle:
            with contextlib.suppress(ffi.FfiError):
                self._gpu.call("cudaGraphExecDestroy", self._handle)


@dataclass
class Recorded:
    """A call that was recorded.

    Attributes:
        graph: its launches.
        results: in memory of the graph.
        tensors: the same as callers see them, where that was asked for.
    """

    graph: Graph
    results: list[ffi.Object]
    tensors: list[DeviceTensor] = field(default_factory=list)

    @property
    def is_free(self) -> bool:
        """Whether nobody holds the results."""
        return all(ffi.is_unique(result) for result in self.results)

    def launch(self) -> list[ffi.Object]:
        """Do it again, for whoever holds what this returns."""
        self.graph.launch()
        return [ffi.borrowed(result.value) for result in self.results]


class Recorder:
    """The graphs of one virtual machine.

    Attributes:
        works: whether calls can be recorded at all.
    """

    def __init__(self, gpu: Gpu, most_graphs: int = _MOST_GRAPHS) -> None:
        self.works = True
        self._most_graphs = most_graphs
        self._gpu = gpu
        self._calls = 0
        self._places: OrderedDict[Place, int] = OrderedDict()
        self._graphs: OrderedDict[tuple[Place, int], Recorded] = OrderedDict()

    def is_usual(self, place: Place) -> bool:
        """Whether inputs lay there before; else they should be copied to where others did."""
        if not self.works:
            return True
        known = place in self._places
        self._places[place] = self._places.pop(place, 0) + 1
        if len(self._places) > _MOST_PLACES:
            self._places.popitem(last=False)
        return known

    def run(self, place: Place, call: Callable[[], list[ffi.Object]]) -> list[ffi.Object]:
        """Do what `call` does on inputs that lie at `place`; its results must not be kept.

        Raises:
            FfiError: as `call` does.
        """
        self._calls += 1
        found = self.ready(place, call) if self._calls > 1 and self.works else None
        return call() if found is None else found.launch()

    def known(self, place: Place) -> Recorded | None:
        """What was recorded for inputs that lie at `place`, if nobody holds its results."""
        for number in range(self._most_graphs):
            found = self._graphs.get((place, number))
            if found is None or found.is_free:
                return found
        return None

    def ready(self, place: Place, call: Callable[[], list[ffi.Object]]) -> Recorded | None:
        """What was recorded for inputs that lie at `place`, if necessary now; None if it can't be.

        The call must have been made once, for inputs anywhere.
        """
        for number in range(self._most_graphs):
            found = self._graphs.get((place, number))
            if found is None:
                # The virtual machine alone holds what it returned last.
                return self._record(place, number, call)
            if found.is_free:
                self._graphs.move_to_end((place, number))
                return found
        return None

    def _record(
        self, place: Place, number: int, call: Callable[[], list[ffi.Object]]
    ) -> Recorded | None:
        results: list[ffi.Object] = []
        try:
            graph = Graph(self._gpu, lambda: results.extend(call()))
        except ffi.FfiError:  # what is wrong with the call itself, it says when it is not recorded
            self.works = False
            return None
        found = self._graphs[place, number] = Recorded(graph, results)
        if len(self._graphs) > self._most_graphs:
            self._graphs.popitem(last=False)
        return found
