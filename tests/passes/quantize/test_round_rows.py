"""Which products round their data as the model runs."""

from __future__ import annotations

from tvm import IRModule, relax

from relaxc.layout import ELEMENTS, KERNEL, ROUNDS_ROWS
from relaxc.passes.quantize.round_rows import RoundRows


class Library:
    """Rounds what is called `yes`."""

    def can_round_rows(self, func: relax.Function) -> bool:
        return str(func.attrs[KERNEL]) == "yes"


def module(kernel: str, elements: list[str] | None = None) -> IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with builder.function("group", [x], private=True):
        builder.emit_func_output(builder.emit(relax.op.nn.relu(x)))
    mod = builder.get()
    func = mod["group"].with_attr(KERNEL, kernel)
    mod["group"] = func if elements is None else func.with_attr(ELEMENTS, elements)
    return mod


def rounds(mod: IRModule) -> bool:
    return ROUNDS_ROWS in mod["group"].attrs


def test_what_the_target_can() -> None:
    before = module("yes")
    assert rounds(RoundRows(Library()).apply(before)) and not rounds(before)
    assert not rounds(RoundRows(Library()).apply(module("no")))


def test_data_that_are_integers_stay_as_they_are() -> None:
    stored = module("yes", ["uint8*0.1-0", "float32"])
    assert not rounds(RoundRows(Library()).apply(stored))
