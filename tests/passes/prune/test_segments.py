"""Pieces of a module say of their values what the whole says."""

from __future__ import annotations

from tvm import IRModule, relax, tirx

from relaxc.passes.prune.segments import bindings_of, piece


def test_a_cast_keeps_what_it_says_of_symbols() -> None:
    n, m = tirx.Var("n", "int64"), tirx.Var("m", "int64")
    x = relax.Var("x", relax.TensorType((n, 8), "float32"))
    y = relax.Var("y", relax.TensorType((m, 8), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, y]):
        with builder.dataflow():
            same = builder.match_cast(y, relax.TensorType((n, 8), "float32"))
            result = builder.emit_output(relax.op.add(x, same))
        builder.emit_func_output(result)
    mod: IRModule = builder.get()
    bindings = bindings_of(mod)
    part, arguments = piece(mod, bindings, [bindings[-1].var])
    assert {var.name for var in arguments} == {"x", "y"}
    (field,) = part["main"].ret_ty.fields
    # Without the cast nobody knows which of two symbols the sum has.
    assert [str(dim) for dim in field.shape.values] == ["n", "T.int64(8)"]
