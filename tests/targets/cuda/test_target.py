"""Reading GPU targets: the architecture is known, or named by whoever compiles."""

from __future__ import annotations

import pytest

from relaxc.errors import OptionError
from relaxc.targets.cuda import target as module
from relaxc.targets.cuda.target import parse_target
from relaxc.targets.registry import backend_for


def test_architecture_and_the_cpu_beside_the_gpu() -> None:
    target = parse_target("cuda -arch=sm_80 -mcpu=x86-64-v4 -mtriple=x86_64-linux-gnu")
    assert target.arch == "sm_80"
    assert target.gpu.capability == 80
    assert str(target.host.attrs["mcpu"]) == "x86-64-v4"
    assert str(target.tvm.attrs["arch"]) == "sm_80"


def test_json() -> None:
    target = parse_target('{"kind": "cuda", "arch": "sm_90"}')
    assert target.arch == "sm_90"
    assert str(target.host.attrs["mcpu"]) == "x86-64-v3"


def test_an_arm_host_gets_a_safe_default_cpu() -> None:
    target = parse_target("cuda -arch=sm_90 -mtriple=aarch64-linux-gnu")
    assert str(target.host.attrs["mcpu"]) == "generic"


@pytest.mark.parametrize(
    ("capability", "arch"), [(90, "sm_90"), (80, "sm_80"), (86, "sm_86"), (88, "sm_87")]
)
def test_without_an_architecture_it_is_that_of_the_gpu_here(
    monkeypatch: pytest.MonkeyPatch, capability: int, arch: str
) -> None:
    monkeypatch.setattr(module, "_capability_here", lambda: capability)
    assert parse_target("cuda").arch == arch


def test_without_a_gpu_the_architecture_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_capability_here", lambda: None)
    with pytest.raises(OptionError, match="no GPU on this machine .* `cuda -arch=sm_90`"):
        parse_target("cuda")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuda -arch=sm_9", "unknown GPU architecture `sm_9` .*did you mean `sm_90`"),
        ("cuda -arch=sm_90a", r"`sm_90a` .*did you mean `sm_90`\?"),
        ("cuda -arch=compute_80", r"`compute_80` .*did you mean `sm_80`\?"),
        ("cuda -arch=sm_52", "unknown GPU architecture `sm_52` .*known are `sm_75`"),
        ("cuda -ach=sm_90", "unknown target option `ach` .*did you mean `arch`"),
        ("cuda -arch=sm_90 -mcpu=zenver5", "LLVM knows no CPU `zenver5`"),
        ("cuda arch=sm_90", "cannot read `arch=sm_90`"),
        ("cud -arch=sm_90", "unknown target `cud` .did you mean `cuda`"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        backend_for(text)
