"""Memory of intermediate results that outlives a run."""

# mypy: ignore-errors
# TVMScript is not Python to a type checker.

from __future__ import annotations

import tvm
from tvm import IRModule
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from relaxc.targets.workspace import WORKSPACE, persist_workspace, workspace_of


@I.ir_module
class Before:
    @T.prim_func
    def f(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")):
        T.evaluate(0)

    @R.function
    def main(x: R.Tensor((8,), "float32")) -> R.Tensor((2, 4), "float32"):
        R.func_attr({"relax.force_pure": True})
        cls = Before
        inner: R.Any = R.memory.alloc_storage(R.shape([64]), R.prim_value(0), "global", "float32")
        lv: R.Tensor((8,), "float32") = R.memory.alloc_tensor(
            inner, R.prim_value(32), R.shape([8]), "float32"
        )
        cls.f(x, lv)
        shown: R.Any = R.memory.alloc_storage(R.shape([32]), R.prim_value(0), "global", "float32")
        out: R.Tensor((8,), "float32") = R.memory.alloc_tensor(
            shown, R.prim_value(0), R.shape([8]), "float32"
        )
        cls.f(lv, out)
        view: R.Tensor((2, 4), "float32") = R.call_packed(
            "vm.builtin.reshape", out, R.shape([2, 4]), ty_args=[R.Tensor((2, 4), "float32")]
        )
        return view


@I.ir_module
class Expected:
    @T.prim_func
    def f(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")):
        T.evaluate(0)

    @R.function
    def main(x: R.Tensor((8,), "float32"), workspace_0: R.Tensor((8,), "float32")) -> R.Tensor(
        (2, 4), "float32"
    ):
        R.func_attr({"relax.force_pure": True})
        cls = Expected
        cls.f(x, workspace_0)
        shown: R.Any = R.memory.alloc_storage(R.shape([32]), R.prim_value(0), "global", "float32")
        out: R.Tensor((8,), "float32") = R.memory.alloc_tensor(
            shown, R.prim_value(0), R.shape([8]), "float32"
        )
        cls.f(workspace_0, out)
        view: R.Tensor((2, 4), "float32") = R.call_packed(
            "vm.builtin.reshape", out, R.shape([2, 4]), ty_args=[R.Tensor((2, 4), "float32")]
        )
        return view


def apply(mod: IRModule) -> IRModule:
    return persist_workspace(mod)


def test_what_the_caller_may_see_is_made_anew() -> None:
    after = apply(Before)
    layout = workspace_of(after)
    after["main"] = after["main"].without_attr(WORKSPACE)
    tvm.ir.assert_structural_equal(after, Expected)
    assert layout == {
        "storages": [64],
        "tensors": [{"storage": 0, "offset": 32, "shape": [8], "dtype": "float32"}],
    }


@I.ir_module
class Symbolic:
    @T.prim_func
    def f(a: T.handle, b: T.handle):
        T.evaluate(0)

    @R.function
    def main(x: R.Tensor(("n",), "float32")) -> R.Tensor(("n",), "float32"):
        R.func_attr({"relax.force_pure": True})
        n = T.int64()
        cls = Symbolic
        inner: R.Any = R.memory.alloc_storage(
            R.shape([n * 4]), R.prim_value(0), "global", "float32"
        )
        lv: R.Tensor((n,), "float32") = R.memory.alloc_tensor(
            inner, R.prim_value(0), R.shape([n]), "float32"
        )
        cls.f(x, lv)
        return x


def test_symbolic_sizes_are_left_to_the_machine() -> None:
    after = apply(Symbolic)
    assert len(after["main"].params) == 1
    assert workspace_of(after) == {"storages": [], "tensors": []}
