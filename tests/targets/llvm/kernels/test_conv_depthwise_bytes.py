"""Windows of four pixels hold every tap of every output once, and nothing beyond the row."""

from __future__ import annotations

import itertools

import pytest

from relaxc.targets.llvm.kernels.conv_depthwise_bytes import stored, windows


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7])
def test_every_tap_is_in_one_window(kernel: int) -> None:
    for stride, dilation, columns in itertools.product((1, 2, 3), (1, 2, 3), range(1, 10)):
        width = (columns - 1) * stride + (kernel - 1) * dilation + 1
        if width < 4:
            continue
        found = []
        for window in windows(kernel, stride, dilation, columns):
            assert 0 <= window.start <= width - 4
            for c, places in window.outputs:
                for p, tap in enumerate(places):
                    if tap is not None:
                        assert window.start + p == c * stride + tap * dilation
                        found.append((c, tap))
        assert sorted(found) == list(itertools.product(range(columns), range(kernel)))


def test_neighbouring_outputs_share_windows() -> None:
    assert [w.start for w in windows(3, 1, 1, 7)] == [0, 2, 4, 5]
    assert len(windows(3, 2, 1, 7)) == 7


def test_arrangements_that_registers_hold_are_made_from_others() -> None:
    first, second = (0, 1, 2, None), (None, 0, 1, 2)
    assert stored([second, first], 3) == {first: (0, 0), second: (0, 1)}
    assert stored([second, first], 5) == {first: (0, 0), second: (1, 0)}
    assert stored([(0, 1, 2, 3), second], 1) == {(0, 1, 2, 3): (0, 0), second: (1, 0)}
