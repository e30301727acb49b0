"""Write docs/operators.md: how every ONNX operator is imported.

python scripts/operators.py > docs/operators.md
"""

from __future__ import annotations

import inspect

from onnx import defs

from relaxc.frontend import operators
from relaxc.frontend.function_bodies import has_body
from relaxc.frontend.host import operators as host
from relaxc.frontend.simplify import OPSET
from relaxc.runtime.host import FUNCTIONS

HEAD = """# Operators

How relaxc imports every operator of ONNX's default domain. `scripts/operators.py` writes this page.

Models of older opsets are converted to opset {opset} first; newer ones are taken as they are. Where
a way is missing, or a node uses what its converter lacks, the model is refused by the name of the
operator and of the node.
Types: those of ONNX; float8, float4 and 2- and 4-bit integers can be moved, cast and (de)quantized.

* **own**: a converter of relaxc. Shapes, axes and counts may be computed by the model.
* **TVM**: the converter that ships with TVM; what ONNX passes as a tensor may have to be constant.
* **body**: expanded to the function that ONNX defines the operator with.
* **host**: run by Python on the host, between pieces that are compiled: see
  [programs](runtime.md#programs). So are Identity, Equal, Shape, Size, Reshape, Concat, Gather,
  Where, Unsqueeze, Squeeze, Expand, Slice, Transpose, Flatten, Tile, Cast and LabelEncoder of
  strings. Other operators of strings are refused.

| operator | since opset | way | notes |
|---|---|---|---|
"""

CONTRIB = """
## com.microsoft

What ONNX Runtime's tools write; compared with ONNX Runtime node by node. Attributes, inputs and
outputs that a converter cannot honour are refused by name.

| operator | notes |
|---|---|
"""

CLASSICAL = """
## ai.onnx.ml

Of numbers, with labels that are integers; LabelEncoder also of strings, on the host. Others are
refused by name.

| operator | notes |
|---|---|
"""

_NOTES = {
    "If": ("own", "branches of equal shapes; by the host where they differ or hold host operators"),
    "Loop": ("host", "any number of iterations, states that grow"),
    "Scan": ("own", "unrolled where the number of steps is known, else by the host"),
}


def page() -> str:
    """The page."""
    rows = []
    for name in sorted({s.name for s in defs.get_all_schemas() if s.domain == ""}):
        schema = defs.get_schema(name)
        way, notes = _way(name, defs.onnx_opset_version())
        rows.append(f"| {name} | {schema.since_version} | {way} | {notes} |\n")
    parts = [HEAD.format(opset=OPSET), *rows, CONTRIB, *_of("com.microsoft")]
    return "".join([*parts, CLASSICAL, *_of("ai.onnx.ml")])


def _of(domain: str) -> list[str]:
    """The rows of a domain other than ONNX's default one."""
    return [
        f"| {name.rpartition('::')[2]} | {_summary(converter)} |\n"
        for name, converter in sorted(operators.CONVERTERS.items())
        if name.startswith(f"{domain}::")
    ]


def _way(name: str, opset: int) -> tuple[str, str]:
    if name in _NOTES:
        return _NOTES[name]
    if name in host.ALWAYS:
        return "host", _summary(FUNCTIONS[name])
    if name in operators.CONVERTERS:
        return "own", _summary(operators.CONVERTERS[name])
    if operators.is_supported(name):
        return "TVM", ""
    if has_body(name, {"": opset}):
        return "body", ""
    return "-", "refused"


def _summary(converter: object) -> str:
    text = inspect.getdoc(converter) or ""
    return " ".join(text.split("\n\n")[0].split())


if __name__ == "__main__":
    print(page(), end="")
