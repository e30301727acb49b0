"""The nine classic topologies that the onnx package ships without weights, given random ones.

In the package their weights are constants of one value, which would let errors cancel. Here they
are seeded random numbers, scaled after He et al. (2015), so that signals keep their size. The
softmax at the end is left out: with random weights it gives ones and zeros, whatever came before.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
from onnx import numpy_helper

FOLDER = Path(onnx.backend.test.__file__).parent / "data" / "light"
NAMES = tuple(sorted(path.stem.removeprefix("light_") for path in FOLDER.glob("light_*.onnx")))


def light_model(name: str, seed: int = 0) -> onnx.ModelProto:
    """Return `light_{name}.onnx` with random weights."""
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    graph = model.graph
    rng = np.random.default_rng(seed)
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    roles = _roles(graph)
    kept = []
    used: set[str] = set()
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            kept.append(node)
            used.update(node.input)
            continue
        shape = tuple(int(dim) for dim in shapes[node.input[0]])
        weight = _random(roles[node.output[0]], shape, rng)
        graph.initializer.append(numpy_helper.from_array(weight, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
    _keep_only(graph, used)
    _drop_softmax(graph)
    return model


def _roles(graph: onnx.GraphProto) -> dict[str, tuple[str, int]]:
    """For every tensor, the operator that reads it and in which place."""
    roles = {name: (node.op_type, at) for node in graph.node for at, name in enumerate(node.input)}
    for node in graph.node:  # scales reach their Mul or Add through an Unsqueeze
        if node.op_type == "Unsqueeze":
            roles[node.input[0]] = roles.get(node.output[0], ("", 0))
    return roles


def _random(role: tuple[str, int], shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(shape)
    if role == ("BatchNormalization", 4):
        array = np.abs(1 + 0.1 * noise)
    elif role in (("BatchNormalization", 1), ("Mul", 0), ("Mul", 1)):
        array = 1 + 0.1 * noise
    elif len(shape) >= 2:
        array = noise * np.sqrt(2 / np.prod(shape[1:]))
    else:
        array = 0.1 * noise
    return array.astype(np.float32)


def _keep_only(graph: onnx.GraphProto, used: set[str]) -> None:
    """Drop the shapes of the former constants; they are listed as inputs, too."""
    unused = {t.name for t in graph.initializer} - used
    for tensor in [t for t in graph.initializer if t.name in unused]:
        graph.initializer.remove(tensor)
    for value in [v for v in graph.input if v.name in unused]:
        graph.input.remove(value)


def _drop_softmax(graph: onnx.GraphProto) -> None:
    last = next(node for node in graph.node if node.output[0] == graph.output[0].name)
    if last.op_type == "Softmax":
        graph.output[0].name = last.input[0]
        graph.output[0].type.tensor_type.ClearField("shape")
        graph.node.remove(last)
