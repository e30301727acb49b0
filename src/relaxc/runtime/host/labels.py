"""Tables between labels, of which one side or both are strings."""

from __future__ import annotations

from typing import Any

import numpy as np

from relaxc.runtime.host.base import Attributes, Function, Inputs, strings

_KINDS = {"int64s": np.int64, "floats": np.float32}
_DEFAULTS = {"strings": "_Unused", "int64s": -1, "floats": -0.0}


def label_encoder(inputs: Inputs, attrs: Attributes) -> list[Any]:
    """LabelEncoder; NaN is found among keys that hold NaN.

    Raises:
        ValueError: keys or values are missing, or their numbers differ.
    """
    keys, _ = _listed("keys", attrs)
    values, kind = _listed("values", attrs)
    if len(keys) != len(values):
        raise ValueError(f"there are {len(keys)} keys and {len(values)} values")
    if kind is None:  # given as tensors, so is the default
        default = np.asarray(attrs["default_tensor"]).reshape(-1)[0]
    else:
        default = attrs.get(f"default_{kind.removesuffix('s')}", _DEFAULTS[kind])
    table = {_key(k): value for k, value in zip(reversed(keys), reversed(values))}
    found = [table.get(_key(item), default) for item in inputs[0].flat]
    shape = inputs[0].shape
    if kind == "strings" or (kind is None and isinstance(default, str)):
        return [strings(found, shape)]
    dtype = np.asarray(attrs["values_tensor"]).dtype if kind is None else _KINDS[kind]
    return [np.array(found, dtype).reshape(shape)]


def _listed(what: str, attrs: Attributes) -> tuple[list[Any], str | None]:
    for kind in ("strings", "int64s", "floats"):
        if f"{what}_{kind}" in attrs:
            listed = attrs[f"{what}_{kind}"]
            # Attributes are float32; so is what they are compared with.
            return [np.float32(v) for v in listed] if kind == "floats" else list(listed), kind
    if f"{what}_tensor" not in attrs:
        raise ValueError(f"no {what} are given")
    return list(np.asarray(attrs[f"{what}_tensor"]).reshape(-1)), None


def _key(item: Any) -> Any:
    """What equal labels share: NaN is one label."""
    if isinstance(item, np.generic):
        item = item.item()
    return "\0nan" if isinstance(item, float) and item != item else item


FUNCTIONS: dict[str, Function] = {"ai.onnx.ml::LabelEncoder": label_encoder}
