"""The error tree."""

from __future__ import annotations

import pytest
import tvm
from tvm import IRModule

from relaxc import errors
from relaxc.errors import RelaxcError, UnsupportedOpError, near_matches

TREE = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, RelaxcError)]


@pytest.mark.parametrize("cls", TREE)
def test_every_error_is_in_the_tree_on_top_of_the_file(cls: type[RelaxcError]) -> None:
    assert cls.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("cls", [c for c in TREE if c is not RelaxcError])
def test_exit_codes_are_documented(cls: type[RelaxcError]) -> None:
    line = next(line for line in (errors.__doc__ or "").splitlines() if cls.__name__ in line)
    assert f"(exit {cls.exit_code})" in line or cls is UnsupportedOpError


@pytest.mark.parametrize("cls", TREE)
def test_errors_cross_tvm_as_themselves(cls: type[RelaxcError]) -> None:
    @tvm.transform.module_pass(opt_level=0, name="raise")
    def fail(_mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        raise cls("told you")

    with pytest.raises(cls, match="told you"):
        fail(IRModule())


def test_near_matches_are_named() -> None:
    assert near_matches("fuse-opps", ["fuse-ops", "lift"]) == " (did you mean `fuse-ops`?)"
    assert near_matches("zzz", ["fuse-ops"]) == ""
