"""What is quantized together or not at all, and how fast it is either way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from relaxc.gate.variant import Seconds, Variant

_FASTER = "faster on integers"
_NOT_FASTER = "not faster on integers"
_AROUND = "not faster alone, but conversions around it would cost more"
_WHOLE = "the whole model is not faster on integers"


@dataclass(frozen=True)
class LayerSpeed:
    """One layer: what is quantized together or not at all.

    Attributes:
        nodes: its convolutions and products, as ONNX calls them.
        float_s, integer_s: seconds it takes either way, conversions included.
        is_kept: whether it computes on integers.
        reason: why, in a few words.
    """

    nodes: tuple[str, ...]
    float_s: float
    integer_s: float
    is_kept: bool
    reason: str


class Layers:
    """Nodes that kernels of either variant compute together, and whatever surrounds them."""

    def __init__(self, nodes: Sequence[str], plain: Variant, whole: Variant) -> None:
        self.plain, self.whole = plain, whole
        self._parent: dict[str, str] = {}
        for call in (*plain.calls, *whole.calls):
            for node in call.nodes:
                self._parent[self._root(node)] = self._root(call.nodes[0])
        roots = list(dict.fromkeys(map(self._root, nodes)))
        self.quantized = [
            tuple(node for node in nodes if self._root(node) == root) for root in roots
        ]
        self._number = {root: i for i, root in enumerate(roots)}

    def nodes_of(self, layers: Collection[int]) -> list[str]:
        """The nodes of several layers."""
        return [node for layer in sorted(layers) for node in self.quantized[layer]]

    def slow(self, seconds: Seconds) -> frozenset[int]:
        """Layers that are no faster on integers."""
        plain, whole = self.by_layer(self.plain, seconds), self.by_layer(self.whole, seconds)
        return frozenset(i for i in range(len(self.quantized)) if whole[i] >= plain[i])

    def gaining(self, slow: frozenset[int], tried: Variant, seconds: Seconds) -> frozenset[int]:
        """Those of the slow layers that are faster as float, their neighbours included."""
        before, after = self.by_layer(self.whole, seconds), self.by_layer(tried, seconds)
        near = self._neighbours()
        return frozenset(
            layer
            for layer in slow
            if sum(after[i] for i in near[layer]) < sum(before[i] for i in near[layer])
        )

    def report(
        self, reverted: frozenset[int], seconds: Seconds, is_slower: bool
    ) -> tuple[LayerSpeed, ...]:
        """Every layer's times and fate."""
        plain, whole = self.by_layer(self.plain, seconds), self.by_layer(self.whole, seconds)
        found = []
        for i, nodes in enumerate(self.quantized):
            kept = i not in reverted and not is_slower
            if whole[i] >= plain[i]:
                reason = _AROUND if kept else _NOT_FASTER
            else:
                reason = _WHOLE if is_slower else _FASTER
            found.append(LayerSpeed(nodes, plain[i], whole[i], kept, reason))
        return tuple(found)

    def by_layer(self, variant: Variant, seconds: Seconds) -> dict[int | None, float]:
        """Seconds by layer; None has those of everything else."""
        result: dict[int | None, float] = defaultdict(float)
        for layer, call in zip(self._places(variant), variant.calls):
            result[layer] += call.cost(seconds)
        return result

    def _neighbours(self) -> list[set[int | None]]:
        """Each layer, and those that it reads or that read it."""
        near: list[set[int | None]] = [{i} for i in range(len(self.quantized))]
        for variant in (self.plain, self.whole):
            places = self._places(variant)
            for place, call in zip(places, variant.calls):
                for source in call.sources:
                    other = places[source]
                    if place is not None:
                        near[place].add(other)
                    if other is not None:
                        near[other].add(place)
        return near

    def _places(self, variant: Variant) -> list[int | None]:
        """Each call's layer. Conversions count for who reads them, at the end for who wrote."""
        places: list[int | None] = [None] * len(variant.calls)
        reader: dict[int, int] = {}
        for i, call in enumerate(variant.calls):
            if call.nodes:
                places[i] = self._number.get(self._root(call.nodes[0]))
            for source in call.sources:
                reader.setdefault(source, i)
        for i in reversed(range(len(places))):
            if not variant.calls[i].nodes and i in reader:
                places[i] = places[reader[i]]
        for i, call in enumerate(variant.calls):
            if not call.nodes and i not in reader and call.sources:
                places[i] = places[min(call.sources)]
        return places

    def _root(self, node: str) -> str:
        while (parent := self._parent.setdefault(node, node)) != node:
            node = parent
        return node
