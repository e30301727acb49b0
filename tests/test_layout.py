"""How layouts are written down, and what shapes they have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaxc.layout import PLAIN, Demand, Layout, Quantization, Slice

_SMALL = st.integers(0, 9)
_QUANTIZATIONS = st.builds(
    Quantization, st.floats(2.0**-30, 2.0**30, width=32).map(float), st.integers(0, 255)
)
_LAYOUTS = st.one_of(
    st.just(PLAIN),
    st.builds(
        lambda block, border, place, pitch: Layout("blocked", block, border, place, pitch=pitch),
        st.sampled_from([4, 8, 16]),
        st.tuples(_SMALL, _SMALL, _SMALL, _SMALL),
        st.none() | st.builds(Slice, _SMALL, _SMALL, _SMALL),
        st.sampled_from([0, 1, 4096]),
    ),
    st.builds(
        lambda border, element, pitch: Layout("last", 0, border, element=element, pitch=pitch),
        st.tuples(_SMALL, _SMALL, _SMALL, _SMALL),
        st.just("bfloat16") | st.builds(lambda q: q.element, _QUANTIZATIONS),
        st.sampled_from([0, 640]),
    ),
)


@given(_LAYOUTS)
def test_text_is_read_back(layout: Layout) -> None:
    assert Layout.parse(str(layout)) == layout


@given(_QUANTIZATIONS)
def test_quantization_survives_its_text(quantization: Quantization) -> None:
    read = Quantization.of(quantization.element)
    assert read is not None and read.zero_point == quantization.zero_point
    assert np.float32(read.scale) == np.float32(quantization.scale)


def test_other_elements_are_not_quantized() -> None:
    assert Quantization.of("float32") is None and Quantization.of("bfloat16") is None
    assert Layout(element="uint8*0.5-3").storage == "uint8"


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
