"""Where latency can be measured."""

from __future__ import annotations

import pytest

from relaxc.errors import OptionError
from relaxc.latency import require_here
from relaxc.targets.registry import backend_for


def test_this_cpu() -> None:
    require_here(backend_for("llvm"))


@pytest.mark.parametrize(
    ("target", "name"), [("cuda -arch=sm_90", "cuda"), ("llvm -mcpu=x86-64-v2", "x86-64-v2")]
)
def test_other_machines(target: str, name: str) -> None:
    with pytest.raises(OptionError, match=f"the target is `{name}`; compile there"):
        require_here(backend_for(target))
