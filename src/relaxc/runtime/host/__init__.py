"""Operators that run on the host, in NumPy: what they take and give are arrays, lists and None.

A sequence is a list of arrays, an empty optional is None, strings are arrays of Python objects.
"""

from __future__ import annotations

from relaxc.runtime.host import arrays, images, labels, randomness, sequences, strings
from relaxc.runtime.host.base import Function

# By operator; those of other domains read `domain::Operator`.
FUNCTIONS: dict[str, Function] = {
    **arrays.FUNCTIONS,
    **images.FUNCTIONS,
    **labels.FUNCTIONS,
    **randomness.FUNCTIONS,
    **sequences.FUNCTIONS,
    **strings.FUNCTIONS,
}
