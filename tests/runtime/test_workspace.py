"""Tensors that a virtual machine keeps from run to run."""

from __future__ import annotations

import numpy as np
import pytest

from relaxc.errors import TargetError
from relaxc.runtime.tensors import ALIGNMENT, to_array
from relaxc.runtime.workspace import Workspace


def test_tensors_lie_where_the_layout_says() -> None:
    entries = [(0, 0, [3], "float32"), (1, 64, [2, 2], "int8"), (1, 0, [2, 2], "float32")]
    names = ("storage", "offset", "shape", "dtype")
    layout = {"storages": [12, 128], "tensors": [dict(zip(names, entry)) for entry in entries]}
    workspace = Workspace(layout)
    arrays = [to_array(t, np.dtype(e[3])) for t, e in zip(workspace.tensors, entries)]
    assert [a.shape for a in arrays] == [(3,), (2, 2), (2, 2)]
    start, size = workspace.span
    assert size == ALIGNMENT + 128
    assert [a.ctypes.data - start for a in arrays] == [0, ALIGNMENT + 64, ALIGNMENT]


def test_none_is_needed() -> None:
    assert Workspace({"storages": [], "tensors": []}).tensors == []


def test_more_is_needed_than_there_is() -> None:
    with pytest.raises(TargetError, match="needs 1048576 GiB for intermediate results"):
        Workspace({"storages": [1 << 50], "tensors": []})
