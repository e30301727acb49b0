"""Read a target as users write it, tvmc's way or as JSON: which kind, and its options."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from relaxc.errors import OptionError, near_matches

# `host` is `llvm` for this CPU.
KINDS = ("llvm", "host", "cuda")
_INT_KEYS = ("num-cores", "vector-width", "opt-level")
_LIST_KEYS = ("mattr",)


def read_target(text: str) -> dict[str, Any]:
    """Read `llvm -mcpu=znver5`, `cuda -arch=sm_90` or a JSON object.

    Returns:
        The options by name, and `kind`: `llvm` or `cuda`.

    Raises:
        OptionError: unknown kind, or not of this form; near matches are named.
    """
    text = text.strip()
    if text.startswith("{"):
        try:
            config = dict(json.loads(text))
        except json.JSONDecodeError as err:
            raise OptionError(f"target is not valid JSON: {err}") from err
        kind = config.get("kind")
        if kind not in ("llvm", "cuda"):
            raise OptionError(f"target kind `{kind}` is not supported; use `llvm` or `cuda`")
        return config
    try:
        words = shlex.split(text)
    except ValueError as err:
        raise OptionError(f"cannot read target `{text}`: {err}") from err
    if not words or words[0] not in KINDS:
        kind = words[0] if words else ""
        raise OptionError(
            f"unknown target `{kind}`{near_matches(kind, KINDS)}; write `llvm` for this CPU, "
            "or for example `llvm -mcpu=znver5 -num-cores=2` or `cuda -arch=sm_90`"
        )
    options: dict[str, Any] = {"kind": "llvm" if words[0] == "host" else words[0]}
    for word in words[1:]:
        key, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or not equals:
            raise OptionError(f"cannot read `{word}` in target `{text}`; write `-key=value`")
        options[key] = _value(key, value, text)
    return options


def require_keys(config: Mapping[str, Any], known: Sequence[str], text: str) -> None:
    """Refuse options that the kind of target does not have.

    Raises:
        OptionError: with near matches.
    """
    unknown = [key for key in config if key not in (*known, "kind")]
    if unknown:
        raise OptionError(
            f"unknown target option `{unknown[0]}` in `{text}`{near_matches(unknown[0], known)}"
        )


def _value(key: str, value: str, text: str) -> Any:
    if key in _LIST_KEYS:
        return [part for part in value.split(",") if part]
    if key in _INT_KEYS:
        if not value.isdigit() or int(value) < 1:
            raise OptionError(f"`{key}` in target `{text}` must be a positive number")
        return int(value)
    return value
