"""The networks of the GPU benchmark, each written once for both builders of gpu_builders.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Net = Any  # an OnnxNet or a TorchNet


class _Numbered:
    """Counts weights."""

    def __init__(self, net: Net, is_pruned: bool = False) -> None:
        self._net, self._index, self._is_pruned = net, 0, is_pruned

    def weight(self, *shape: int) -> Any:
        self._index += 1
        if self._is_pruned:
            return self._net.pruned_weight(self._index, shape)
        return self._net.weight(self._index, shape)

    def scale(self, size: int) -> Any:
        self._index += 1
        return self._net.scale(self._index, size)


def resnet50(net: Net, batch: int) -> Any:
    """He et al., 2015, batch norms folded."""
    new = _Numbered(net)

    def conv(x: Any, inputs: int, outputs: int, kernel: int, stride: int) -> Any:
        w, b = new.weight(outputs, kernel, kernel, inputs), new.weight(outputs)
        return net.conv(x, w, b, kernel, stride)

    x = net.max_pool(net.relu(conv(net.input("image", [batch, 3, 224, 224]), 3, 64, 7, 2)))
    inputs = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            short = x if block else conv(x, inputs, width * 4, 1, step)
            y = net.relu(conv(x, inputs, width, 1, 1))
            y = net.relu(conv(y, width, width, 3, step))
            x = net.relu(net.add(conv(y, width, width * 4, 1, 1), short))
            inputs = width * 4
    return net.add(net.matmul(net.mean_pool(x), new.weight(2048, 1000)), new.weight(1000))


def small_maps(net: Net, batch: int) -> Any:
    """A few convolutions of sizes that fit no tile, and pooling."""
    new = _Numbered(net)

    def conv(x: Any, inputs: int, outputs: int, kernel: int, stride: int) -> Any:
        w, b = new.weight(outputs, kernel, kernel, inputs), new.weight(outputs)
        return net.conv(x, w, b, kernel, stride)

    x = net.max_pool(net.relu(conv(net.input("image", [batch, 3, 57, 45]), 3, 40, 7, 2)))
    y = net.relu(conv(x, 40, 72, 3, 1))
    y = net.relu(conv(y, 72, 72, 3, 2))
    y = net.add(conv(y, 72, 136, 1, 1), conv(x, 40, 136, 1, 2))
    return net.mean_pool(net.relu(y))


def bert(net: Net, batch: int, words: int = 128, layers: int = 12, width: int = 768) -> Any:
    """Devlin et al., 2018, without mask and pooler."""
    new, depth = _Numbered(net), 64
    heads = width // depth

    def linear(x: Any, inputs: int, outputs: int) -> Any:
        return net.add(net.matmul(x, new.weight(inputs, outputs)), new.weight(outputs))

    def split(x: Any) -> Any:
        return net.transpose(net.reshape(x, [batch, words, heads, depth]), [0, 2, 1, 3])

    tokens = net.input("tokens", [batch, words], "int64")
    x = net.add(net.gather(new.weight(30522, width), tokens), new.weight(words, width))
    x = net.layer_norm(x, new.scale(width), new.weight(width))
    for _ in range(layers):
        q, k, v = (split(linear(x, width, width)) for _ in range(3))
        a = net.transpose(net.attention(q, k, v, depth), [0, 2, 1, 3])
        a = linear(net.reshape(a, [batch, words, width]), width, width)
        x = net.layer_norm(net.add(a, x), new.scale(width), new.weight(width))
        h = linear(net.gelu(linear(x, width, 4 * width)), 4 * width, width)
        x = net.layer_norm(net.add(h, x), new.scale(width), new.weight(width))
    return x


def llama(
    net: Net,
    words: int,
    past: int = 0,
    width: int = 4096,
    heads: int = 32,
    hidden: int = 11008,
    is_pruned: bool = False,
) -> Any:
    """One layer of Touvron et al., 2023 (7B), with a cache of `past` words; pruned: 2:4."""
    new = _Numbered(net, is_pruned)
    depth = width // heads
    x = net.input("x", [1, words, width])
    cos, sin = net.input("cos", [words, depth]), net.input("sin", [words, depth])

    def project(x: Any) -> Any:
        y = net.reshape(net.matmul(x, new.weight(width, width)), [1, words, heads, depth])
        return net.transpose(y, [0, 2, 1, 3])

    h = net.rms_norm(x, new.scale(width))
    q, k, v = (project(h) for _ in range(3))
    q, k = net.rotate(q, cos, sin, depth), net.rotate(k, cos, sin, depth)
    mask = None
    if past:
        k = net.concat(net.input("past_k", [1, heads, past, depth]), k)
        v = net.concat(net.input("past_v", [1, heads, past, depth]), v)
    else:
        mask = net.input("mask", [1, 1, words, words])
    a = net.transpose(net.attention(q, k, v, depth, mask), [0, 2, 1, 3])
    x = net.add(x, net.matmul(net.reshape(a, [1, words, width]), new.weight(width, width)))
    h = net.rms_norm(x, new.scale(width))
    gate = net.silu(net.matmul(h, new.weight(width, hidden)))
    h = net.mul(gate, net.matmul(h, new.weight(width, hidden)))
    return net.add(x, net.matmul(h, new.weight(hidden, width)))


def gemm(net: Net, size: int, is_pruned: bool = False) -> Any:
    """One product with a constant matrix."""
    return net.matmul(net.input("x", [size, size]), _Numbered(net, is_pruned).weight(size, size))


NETS: dict[str, Callable[[Net], Any]] = {
    "resnet50_b1": lambda net: resnet50(net, 1),
    "resnet50_b32": lambda net: resnet50(net, 32),
    "bert_b1": lambda net: bert(net, 1),
    "bert_b8": lambda net: bert(net, 8),
    "llama_prefill512": lambda net: llama(net, 512),
    "llama_decode1024": lambda net: llama(net, 1, 1024),
    "gemm4096": lambda net: gemm(net, 4096),
    "gemm4096_2of4": lambda net: gemm(net, 4096, is_pruned=True),
    "llama_prefill512_2of4": lambda net: llama(net, 512, is_pruned=True),
}


# Small ones, for accuracy in all precisions; sizes that are no multiples of tiles among them.
CASES: dict[str, Callable[[Net], Any]] = {
    "convolutions": lambda net: small_maps(net, 2),
    "encoder": lambda net: bert(net, 2, words=70, layers=2, width=128),
    "products": lambda net: net.matmul(
        net.input("a", [2, 3, 65, 40]), net.input("b", [2, 3, 40, 24])
    ),
    "decoder": lambda net: llama(net, 33, width=256, heads=4, hidden=700),
    "decoder_step": lambda net: llama(net, 1, 300, width=256, heads=4, hidden=700),
    "odd_gemm": lambda net: net.matmul(net.input("x", [300, 777]), _Numbered(net).weight(777, 333)),
}


def example(inputs: dict[str, tuple[Sequence[int], str]]) -> dict[str, np.ndarray]:
    """Seeded inputs."""
    rng = np.random.default_rng(1)
    found: dict[str, np.ndarray] = {}
    for name, (shape, dtype) in inputs.items():
        if dtype == "int64":
            found[name] = rng.integers(0, 30_000, shape)
        elif name == "mask":
            found[name] = np.triu(np.full(shape, -1e4, np.float32), 1)
        elif name in ("cos", "sin"):
            found[name] = np.cos(rng.random(shape) * 6.28).astype(np.float32)
        else:
            found[name] = rng.standard_normal(shape).astype(np.float32)
    return found
