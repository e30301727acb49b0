"""A recurrence says what it computes, well enough to be written again."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from builders import onnx_model
from tvm import tirx

from relaxc.errors import ModelError
from relaxc.frontend.importer import from_onnx
from relaxc.recurrent.described import description, with_units

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
CASES = [
    ("RNN", ', activations=["ScaledTanh"], activation_alpha=[0.5], clip=0.25'),
    ("GRU", ', direction="reverse", linear_before_reset=1'),
    ("LSTM", ', direction="reverse"'),
    ("LSTM", ", input_forget=1"),
    ("LSTM", ', activations=["HardSigmoid", "Relu", "Softsign"]'),
]


def recurrence(op: str, attrs: str, hidden: int) -> tirx.PrimFunc:
    w, r = (np.ones((1, GATES[op] * hidden, n), np.float32) for n in (4, hidden))
    graph = f"""g (float[s,n,4] x) => (float[s,d,n,h] y) {{
        y = {op}<hidden_size={hidden}{attrs}>(x, w, r)
    }}"""
    functions = from_onnx(onnx_model(graph, 18, w=w, r=r)).mod.functions.values()
    (found,) = [f for f in functions if description(f) is not None]
    return found


@pytest.mark.parametrize(("op", "attrs"), CASES)
def test_written_again_with_fewer_units(op: str, attrs: str) -> None:
    wide, narrow = (recurrence(op, attrs, hidden) for hidden in (6, 4))
    stored = tvm.ir.load_json(tvm.ir.save_json(wide))
    for func in (wide, stored):
        tvm.ir.assert_structural_equal(with_units(func, 4), narrow, map_free_vars=True)


def test_an_activation_that_there_is_not_is_named() -> None:
    with pytest.raises(ModelError, match="activation `Cube` is not supported"):
        recurrence("RNN", ', activations=["Cube"]', 4)
