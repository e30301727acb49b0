"""Read a CPU target as users write it, and refuse what LLVM would silently compile as generic."""

from __future__ import annotations

from typing import Any

import tvm
from tvm.target import codegen

from relaxc import cpu
from relaxc.errors import OptionError, near_matches
from relaxc.targets.spelling import read_target, require_keys

_KEYS = ("mcpu", "mattr", "mtriple", "num-cores", "mabi", "opt-level", "vector-width")


def parse_target(text: str) -> tvm.target.Target:
    """Parse `llvm`, `host`, `llvm -mcpu=znver5 -num-cores=2` or a JSON object.

    Plain `llvm` (or `host`) is this machine: its CPU as LLVM names it, less the features that a
    hypervisor hides.

    Raises:
        OptionError: unknown key, CPU or feature; near matches are named.
    """
    config = read_target(text)
    require_keys(config, _KEYS, text)
    native = "mcpu" not in config and "mtriple" not in config
    triple = str(config.setdefault("mtriple", default_triple(cpu.architecture())))
    arch = triple.partition("-")[0]
    if native:
        config["mcpu"] = codegen.llvm_get_system_cpu()
    config.setdefault("mcpu", "generic" if arch == "aarch64" else "x86-64-v3")
    _require_triple(triple)
    _require_cpu(str(config["mcpu"]), config)
    _require_features(config)
    if native:
        config["mattr"] = [*config.get("mattr", []), *_hidden_features(config)]
    config.setdefault("num-cores", cpu.available_cores())
    try:
        return tvm.target.Target(config)
    except (ValueError, TypeError) as err:
        raise OptionError(f"target `{text}` is not valid: {str(err).splitlines()[0]}") from err


def default_triple(arch: str) -> str:
    """The target triple of a Linux machine of this architecture."""
    return f"{arch}-unknown-linux-gnu" if arch == "x86_64" else f"{arch}-linux-gnu"


def enabled_features(target: tvm.target.Target) -> frozenset[str]:
    """LLVM features that code for this target may use, and whose presence can be checked."""
    arch = str(target.attrs["mtriple"]).partition("-")[0]
    names = frozenset(str(f) for f in codegen.llvm_get_cpu_features(target))
    return names & cpu.checkable_features(arch)


def _require_triple(triple: str) -> None:
    arch = triple.partition("-")[0]
    if arch not in cpu.ARCHITECTURES:
        raise OptionError(
            f"target triple `{triple}` is not supported; known architectures are "
            + ", ".join(f"`{a}`" for a in cpu.ARCHITECTURES)
        )


def _require_cpu(mcpu: str, config: dict[str, Any]) -> None:
    triple = str(config["mtriple"])
    if codegen.llvm_is_valid_cpu(mcpu, triple):
        return
    probe = tvm.target.Target({"kind": "llvm", "mtriple": triple})
    known = [str(name) for name in codegen.llvm_get_cpu_archlist(probe)]
    raise OptionError(
        f"LLVM knows no CPU `{mcpu}` for `{triple}`{near_matches(mcpu, known)}; "
        "use `llvm` for this machine's"
    )


def _require_features(config: dict[str, Any]) -> None:
    arch = str(config["mtriple"]).partition("-")[0]
    known = cpu.checkable_features(arch)
    for feature in config.get("mattr", []):
        name = feature[1:]
        if feature[:1] not in ("+", "-"):
            raise OptionError(f"CPU feature `{feature}` must start with `+` or `-`")
        if name not in known:
            raise OptionError(
                f"unknown CPU feature `{name}` for `{arch}`{near_matches(name, known)}"
            )


def _hidden_features(config: dict[str, Any]) -> list[str]:
    """Features that the CPU's name implies but this machine does not show."""
    probe = tvm.target.Target({k: config[k] for k in ("kind", "mcpu", "mtriple")})
    return [f"-{name}" for name in sorted(enabled_features(probe) - cpu.features())]
