"""Strings."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from relaxc.runtime.host.base import Attributes, Function, Inputs, strings


def concat(inputs: Inputs, _attrs: Attributes) -> list[Any]:
    """StringConcat, element by element; shapes broadcast."""
    one, other = np.broadcast_arrays(*inputs)
    return [strings((a + b for a, b in zip(one.flat, other.flat)), one.shape)]


def split(inputs: Inputs, attrs: Attributes) -> list[Any]:
    """StringSplit: substrings in a new last axis, and how many there are; short rows end empty."""
    (texts,) = inputs
    delimiter = attrs.get("delimiter") or None
    most = int(attrs.get("maxsplit", -1))
    rows = [text.split(delimiter, most) for text in texts.flat]
    width = max((len(row) for row in rows), default=0)
    cells = [cell for row in rows for cell in row + [""] * (width - len(row))]
    counts = np.array([len(row) for row in rows], np.int64).reshape(texts.shape)
    return [strings(cells, (*texts.shape, width)), counts]


def normalize(inputs: Inputs, attrs: Attributes) -> list[Any]:
    """StringNormalizer: without stop words, in one case; a row without words is one empty word.

    Raises:
        ValueError: the tensor is neither a vector nor a single row.
    """
    (texts,) = inputs
    if texts.ndim not in (1, 2) or (texts.ndim == 2 and texts.shape[0] != 1):
        raise ValueError(f"texts must have shape [c] or [1, c], not {list(texts.shape)}")
    change = {"LOWER": str.lower, "UPPER": str.upper}.get(attrs.get("case_change_action", "NONE"))
    is_exact = bool(attrs.get("is_case_sensitive", 0))
    stop = set(attrs.get("stopwords", ()))
    if not is_exact:
        stop = {word.lower() for word in stop}
    kept = [t for t in texts.flat if (t if is_exact else t.lower()) not in stop]
    words = [change(t) if change else t for t in kept] or [""]
    return [strings(words, (len(words),) if texts.ndim == 1 else (1, len(words)))]


def full_match(inputs: Inputs, attrs: Attributes) -> list[Any]:
    """RegexFullMatch, of the syntax that Python and RE2 share.

    Raises:
        ValueError: the pattern is none.
    """
    try:
        pattern = re.compile(attrs["pattern"])
    except re.error as err:
        raise ValueError(f"`{attrs['pattern']}` is no regular expression: {err}") from err
    (texts,) = inputs
    found = [pattern.fullmatch(text) is not None for text in texts.flat]
    return [np.array(found, np.bool_).reshape(texts.shape)]


FUNCTIONS: dict[str, Function] = {
    "StringConcat": concat,
    "StringSplit": split,
    "StringNormalizer": normalize,
    "RegexFullMatch": full_match,
}
