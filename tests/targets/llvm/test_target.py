"""Reading targets: this CPU, tvmc's spelling, JSON; no silent generic build."""

from __future__ import annotations

import pytest

from relaxc import cpu
from relaxc.errors import OptionError
from relaxc.targets.llvm.target import enabled_features, parse_target

X86 = "llvm -mtriple=x86_64-linux-gnu"


@pytest.mark.parametrize("text", ["llvm", "host"])
def test_plain_llvm_is_this_machine(text: str) -> None:
    target = parse_target(text)
    assert str(target.attrs["mtriple"]).startswith(cpu.architecture())
    assert int(target.attrs["num-cores"]) == cpu.available_cores()
    assert enabled_features(target) <= cpu.features()


def test_a_feature_that_the_hypervisor_hides_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = sorted(cpu.features())[0]
    seen = cpu.features() - {hidden}
    monkeypatch.setattr(cpu, "features", lambda: seen)
    assert hidden not in enabled_features(parse_target("llvm"))


def test_tvmc_spelling() -> None:
    target = parse_target("llvm -mcpu=znver4 -num-cores=8 -mtriple=x86_64-linux-gnu")
    assert str(target.attrs["mcpu"]) == "znver4"
    assert int(target.attrs["num-cores"]) == 8
    assert "avx512f" in enabled_features(target)


def test_json() -> None:
    text = '{"kind": "llvm", "mcpu": "x86-64-v3", "mtriple": "x86_64-linux-gnu"}'
    assert "avx2" in enabled_features(parse_target(text))
    assert "avx512f" not in enabled_features(parse_target(text))


def test_features_can_be_added_and_removed() -> None:
    target = parse_target("llvm -mtriple=x86_64-linux-gnu -mcpu=znver4 -mattr=-avx512f,+gfni")
    assert "avx512f" not in enabled_features(target)


def test_another_host_gets_a_safe_default_cpu() -> None:
    target = parse_target("llvm -mtriple=aarch64-linux-gnu")
    assert str(target.attrs["mcpu"]) == "generic"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown target ``"),
        ("lvm", "unknown target `lvm` .did you mean `llvm`"),
        ("opencl", "unknown target `opencl`"),
        ("llvm mcpu=x", "cannot read `mcpu=x` .* write `-key=value`"),
        ("llvm -mcpu", "cannot read `-mcpu`"),
        ("llvm -mcp=znver5", "unknown target option `mcp` .* .did you mean `mcpu`"),
        (
            "llvm -mtriple=x86_64-linux-gnu -mcpu=znver55",
            "no CPU `znver55` .*did you mean `znver5`",
        ),
        ("llvm -mattr=avx2", "CPU feature `avx2` must start with `\\+` or `-`"),
        (
            X86 + " -mattr=+avx512vnnii",
            "unknown CPU feature `avx512vnnii` .*did you mean `avx512vnni`",
        ),
        ("llvm -num-cores=none", "`num-cores` in target .* must be a positive number"),
        ("llvm -num-cores=0", "`num-cores` in target .* must be a positive number"),
        ("llvm -mtriple=sparc-linux-gnu", "target triple `sparc-linux-gnu` is not supported"),
        ('{"kind": "llvm"', "target is not valid JSON"),
        ('{"kind": "metal"}', "target kind `metal` is not supported"),
        ("llvm -mcpu='", "cannot read target"),
    ],
)
def test_what_llvm_would_misread_is_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_target(text)
