"""How layouts are written down, and what shapes they have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaxc.layout import PLAIN, Demand, Layout, Slice

_SMALL = st.integers(0, 9)
_LAYOUTS = st.one_of(
    st.just(PLAIN),
    st.builds(
        lambda block, border, place: Layout("blocked", block, border, place),
        st.sampled_from([4, 8, 16]),
        st.tuples(_SMALL, _SMALL, _SMALL, _SMALL),
        st.none() | st.builds(Slice, _SMALL, _SMALL, _SMALL),
    ),
    st.builds(lambda border: Layout("last", 0, border), st.tuples(_SMALL, _SMALL, _SMALL, _SMALL)),
)


@given(_LAYOUTS)
def test_text_is_read_back(layout: Layout) -> None:
    assert Layout.parse(str(layout)) == layout


def test_refuses_other_text() -> None:
    with pytest.raises(ValueError, match="`NCHW` is not a layout"):
        Layout.parse("NCHW")


def test_physical_shapes() -> None:
    dims = (2, 20, 5, 7)
    assert PLAIN.physical_shape(dims) == [2, 20, 5, 7]
    assert Layout("blocked", 16).physical_shape(dims) == [2, 2, 5, 7, 16]
    assert Layout("last", 0, (1, 1, 2, 3)).physical_shape(dims) == [2, 8, 11, 20]
    slice_ = Layout("blocked", 16, slice=Slice(0, 32, 64))
    assert slice_.physical_shape((2, 16, 5, 7)) == [2, 4, 5, 7, 16]


def test_demands() -> None:
    padded = Layout("blocked", 16, (1, 1, 1, 1))
    assert Demand(("blocked",), (1, 1, 0, 0)).met_by(padded)
    assert not Demand(("blocked",), (2, 1, 0, 0)).met_by(padded)
    assert not Demand(("last",)).met_by(padded)
    assert not Demand(("blocked",), exact=True).met_by(padded)
