"""Random ONNX graphs, valid because ONNX Runtime has just run every node of them.

A graph grows node by node. A candidate is an operator on values that are already there; it is kept
if ONNX Runtime computes it, at every trial size of the symbolic dimensions, to finite numbers of
reasonable size. So no operator needs a shape function here, and edge shapes come for free.

Values know whether they are exact: small multiples of 1/4 that no rounding has touched. Only those
feed operators with jumps (Floor, Greater, ArgMax), where the last bit would decide.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

OPSET = 20
IR_VERSION = 10
TRIALS = 2
_SIZES = (1, 1, 2, 2, 3, 4, 5, 7, 8, 13, 16, 17)
_TRIAL_SIZES = ((1, 2, 2, 3, 5, 7), (0, 1, 1, 2, 4, 6, 9, 13, 17))
_MOST_ELEMENTS = 20_000
_LARGEST = 1e4

onnxruntime.set_default_logger_severity(4)


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    Attributes:
        name: its name.
        arrays: what it holds in each trial.
        is_exact: whether rounding has not touched it yet.
        is_constant: whether it is an initializer.
    """

    name: str
    arrays: tuple[np.ndarray, ...]
    is_exact: bool
    is_constant: bool = False

    @property
    def dtype(self) -> np.dtype:
        return self.arrays[0].dtype

    @property
    def rank(self) -> int:
        return self.arrays[0].ndim

    @property
    def is_float(self) -> bool:
        return bool(self.dtype.kind == "f")

    def is_static(self, axis: int) -> bool:
        """Whether all trials agree on an axis' size."""
        return len({a.shape[axis] for a in self.arrays}) == 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes in the first trial."""
        return tuple(self.arrays[0].shape)


@dataclass
class Graph:
    """A graph that grows.

    Attributes:
        rng: the only source of chance.
        values: what nodes may read.
    """

    rng: random.Random
    values: list[Value] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    feeds: list[dict[str, np.ndarray]] = field(default_factory=lambda: [{} for _ in range(TRIALS)])
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def symbol(self) -> str:
        """The name of a symbolic dimension, with a size for each trial."""
        name = self.rng.choice("nmk")
        if name not in self.sizes:
            self.sizes[name] = tuple(self.rng.choice(sizes) for sizes in _TRIAL_SIZES)
        return name

    def dimension(self) -> int | str:
        """A dimension of an input."""
        roll = self.rng.random()
        if roll < 0.3:
            return self.symbol()
        return 0 if roll < 0.315 else self.rng.choice(_SIZES)

    def add_input(self, dtype: str, shape: list[int | str]) -> Value:
        """Add an input of random numbers."""
        name = f"x{len(self.inputs)}"
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        arrays = []
        for trial in range(TRIALS):
            extents = [self.sizes[d][trial] if isinstance(d, str) else d for d in shape]
            arrays.append(self.random_array(dtype, extents))
            self.feeds[trial][name] = arrays[-1]
        self.values.append(Value(name, tuple(arrays), True))
        return self.values[-1]

    def random_array(self, dtype: str, shape: list[int]) -> np.ndarray:
        """Exact numbers: multiples of 1/4 between -3 and 3, or small integers."""
        rng = np.random.default_rng(self.rng.randrange(1 << 32))
        kind = np.dtype(dtype)
        # Of no dimensions, NumPy makes numbers, which are no arrays.
        if kind.kind == "f":
            return np.asarray(rng.integers(-12, 13, shape) / 4, kind)
        if kind.kind == "b":
            return np.asarray(rng.integers(0, 2, shape), kind)
        return np.asarray(rng.integers(0 if kind.kind == "u" else -5, 6, shape), kind)

    def constant(self, array: Any, dtype: str | None = None) -> Value:
        """Add an initializer."""
        stored = np.asarray(array, dtype)
        name = f"c{len(self.constants)}"
        self.constants[name] = stored
        return Value(name, (stored,) * TRIALS, True, True)

    def pick(self, *kinds: str, rank: int | None = None, exact: bool = False) -> Value | None:
        """A value of one of the dtype kinds (`f`, `i`, `u`, `b`), mostly a recent one."""
        fitting = [
            v
            for v in self.values
            if (not kinds or v.dtype.kind in kinds)
            and (rank is None or v.rank == rank)
            and (v.is_exact or not exact)
        ]
        if not fitting:
            return None
        return self.rng.choice(fitting[-3:] if self.rng.random() < 0.6 else fitting)

    def node(
        self,
        op_type: str,
        *given: Value | None,
        outputs: int = 1,
        exact: bool = False,
        **attrs: Any,
    ) -> bool:
        """Add a node if ONNX Runtime takes it.

        Args:
            op_type: the operator.
            given: its inputs; None where an optional one is absent.
            outputs: how many of its outputs to ask for.
            exact: whether exact inputs give exact results.
            attrs: its attributes.
        """
        number = len(self.nodes)
        names = [f"t{number}_{i}" if i else f"t{number}" for i in range(outputs)]
        node = helper.make_node(
            op_type,
            ["" if v is None else v.name for v in given],
            names,
            f"node{number}",
            **{k: v for k, v in attrs.items() if v is not None and v != []},
        )
        results = [_run_node(node, given, trial) for trial in range(TRIALS)]
        if any(r is None or not all(map(_is_reasonable, r)) for r in results):
            return False
        is_exact = exact and all(v is None or v.is_exact for v in given)
        self.nodes.append(node)
        for i, name in enumerate(names):
            arrays = tuple(r[i] for r in results if r is not None)
            self.values.append(Value(name, arrays, is_exact or arrays[0].dtype.kind in "bui"))
        return True

    def model(self) -> onnx.ModelProto:
        """The graph as a model; its outputs are what nobody reads, and some that somebody does."""
        read = {name for node in self.nodes for name in node.input}
        made = {name for node in self.nodes for name in node.output}
        chosen = [
            v
            for v in self.values
            if v.name in made and (v.name not in read or self.rng.random() < 0.15)
        ]
        results = [
            helper.make_tensor_value_info(
                v.name, helper.np_dtype_to_tensor_dtype(v.dtype), [None] * v.rank
            )
            for v in chosen
        ]
        used = [numpy_helper.from_array(a, n) for n, a in self.constants.items() if n in read]
        graph = helper.make_graph(self.nodes, "fuzz", self.inputs, results, used)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)


def _is_reasonable(array: np.ndarray) -> bool:
    if array.size > _MOST_ELEMENTS:
        return False
    if array.dtype.kind != "f" or not array.size:
        return True
    return bool(np.isfinite(array).all() and np.abs(array).max() <= _LARGEST)


def _run_node(
    node: onnx.NodeProto, given: tuple[Value | None, ...], trial: int
) -> list[np.ndarray] | None:
    """The node's results; None if ONNX Runtime refuses it."""
    values = {v.name: v for v in given if v is not None}
    kind = helper.np_dtype_to_tensor_dtype
    inputs = [
        helper.make_tensor_value_info(v.name, kind(v.dtype), v.arrays[trial].shape)
        for v in values.values()
        if not v.is_constant
    ]
    stored = [
        numpy_helper.from_array(v.arrays[trial], v.name) for v in values.values() if v.is_constant
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([node], "one", inputs, outputs, stored)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    feeds = {v.name: v.arrays[trial] for v in values.values() if not v.is_constant}
    try:
        return [np.asarray(a) for a in run_reference(model, feeds)]
    except Exception:
        return None


def run_reference(model: onnx.ModelProto | bytes, feeds: dict[str, np.ndarray]) -> list[Any]:
    """ONNX Runtime's results, without its optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else model.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
    )
    return list(session.run(None, feeds))
