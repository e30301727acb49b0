"""The pass contract."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import tvm

from relaxc.passes.base import Pass
from relaxc.passes.canonicalize.fold_batch_norm import FoldBatchNorm


def subclasses(cls: Any) -> list[type[Pass]]:
    return [cls, *(below for sub in cls.__subclasses__() for below in subclasses(sub))]


@pytest.mark.parametrize("cls", [c for c in subclasses(Pass) if "name" in vars(c)])
def test_every_pass_is_described(cls: type[Pass]) -> None:
    assert cls.__doc__
    assert cls.name == cls.name.lower().replace("_", "-")
    assert cls.opt_level in range(4)


def test_a_pass_is_a_value() -> None:
    assert FoldBatchNorm() == FoldBatchNorm()
    with pytest.raises(dataclasses.FrozenInstanceError):
        FoldBatchNorm().name = "other"  # type: ignore[misc]


def test_instruments_of_tvm_see_our_passes() -> None:
    assert FoldBatchNorm().as_tvm().info.name == "fold-batch-norm"
    timing = tvm.ir.instrument.PassTimingInstrument()
    with tvm.transform.PassContext(instruments=[timing]):
        FoldBatchNorm().as_tvm()(tvm.IRModule())
        assert "fold-batch-norm" in timing.render()
