"""Which ONNX nodes stay float, as users name them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tvm import IRModule, relax

from relaxc.errors import OptionError, near_matches

# Attribute of `main`: nodes that gate-quantization leaves float.
FLOAT_NODES = "float_nodes"


@dataclass(frozen=True)
class Exclusion:
    """Nodes that are not to be quantized.

    Attributes:
        patterns: names, or regular expressions that match whole names.
        nodes: further names.
    """

    patterns: tuple[str, ...]
    nodes: frozenset[str] = frozenset()

    @staticmethod
    def of(mod: IRModule, patterns: tuple[str, ...]) -> Exclusion:
        """What the user excludes, and what the speed gate does."""
        attrs = mod["main"].attrs or {}
        return Exclusion(patterns, frozenset(map(str, attrs.get(FLOAT_NODES, ()))))

    def has(self, node: str) -> bool:
        """Whether a node is excluded."""
        return node in self.nodes or any(_matches(pattern, node) for pattern in self.patterns)

    def check(self, mod: IRModule) -> None:
        """Fail where nothing is excluded.

        Raises:
            OptionError: a pattern matches no node.
        """
        blocks = mod["main"].body.blocks
        nodes = {node_of(binding) for block in blocks for binding in block.bindings}
        for pattern in self.patterns:
            if not any(_matches(pattern, node) for node in nodes):
                raise OptionError(
                    f"`{pattern}` is to be excluded from quantization, but no node has such a name"
                    + near_matches(pattern, nodes)
                )


def without_float_nodes(mod: IRModule) -> IRModule:
    """The module, its gate's decision forgotten."""
    attrs = mod["main"].attrs
    if not attrs or FLOAT_NODES not in attrs:
        return mod
    result = mod.clone()
    result["main"] = mod["main"].without_attr(FLOAT_NODES)
    return result


def node_of(binding: relax.Binding) -> str:
    """The ONNX node of a binding: of several, all but the last have a numbered name."""
    return re.sub(r"\.\d+$", "", binding.var.name)


def _matches(pattern: str, node: str) -> bool:
    return pattern == node or re.fullmatch(pattern, node) is not None
