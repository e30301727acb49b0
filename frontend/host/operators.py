"""Which nodes run on the host. `relaxc.runtime.host` has a function for each of these operators."""

from __future__ import annotations

# Of whatever types: the results are containers, or compiled code has no means for them.
ALWAYS = frozenset(
    ("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert")
    + ("SequenceLength", "SplitToSequence", "ConcatFromSequence")
    + ("Optional", "OptionalGetElement", "OptionalHasElement")
    + ("StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch", "ImageDecoder")
    + ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial")
)
# Steps that run graphs.
CONTROL_FLOW = frozenset(("If", "Loop", "Scan"))
# Where an input or output holds strings or is a container, or where its rank is not known.
ON_DEMAND = frozenset(
    ("Identity", "Equal", "Shape", "Size", "Reshape", "Concat", "Gather", "Where", "Unsqueeze")
    + ("Squeeze", "Expand", "Slice", "Transpose", "Flatten", "Tile", "Cast")
    + ("Add", "Sub", "Mul", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Not")
    + ("Neg", "Abs", "ai.onnx.ml::LabelEncoder")
)

ON_HOST = ALWAYS | CONTROL_FLOW | ON_DEMAND
