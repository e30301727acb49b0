"""Runs of steps are taken where the memory that they save outweighs what parts cost."""

from __future__ import annotations

import pytest

from relaxc.passes.layout.batch_plan import Step, best_runs, images_per_part

MB = 1 << 20
CACHE = 8 * MB


def _runs(
    steps: list[Step | None],
    entering: list[int] | None = None,
    leaving: list[int] | None = None,
) -> list[tuple[int, int]]:
    places = [0] * (len(steps) + 1)
    return best_runs(steps, entering or places, leaving or places, 8, CACHE)


def test_large_maps_are_split_and_small_ones_are_not() -> None:
    big, small = Step(40 * MB, MB // 16), Step(2 * MB, 20 * MB)
    assert _runs([big, big, small, small]) == [(0, 2)]
    assert _runs([small, big, big, small, big]) == [(1, 3), (4, 5)]


def test_a_step_that_costs_little_joins_two_runs() -> None:
    big, small = Step(40 * MB, 0), Step(6 * MB, 0)
    places = [2 * MB] * 4
    assert _runs([big, small, big], places, places) == [(0, 3)]


def test_what_must_see_the_whole_batch_is_a_boundary() -> None:
    big = Step(40 * MB, 0)
    assert _runs([big, None, big, None]) == [(0, 1), (2, 3)]
    assert _runs([]) == _runs([None]) == []


def test_an_image_that_is_too_large_alone_gains_nothing() -> None:
    assert _runs([Step(8 * 30 * MB, 0)]) == []


def test_weights_that_are_read_again_count_and_more_if_they_are_transformed() -> None:
    assert _runs([Step(20 * MB, 2 * MB)]) == [(0, 1)]
    assert _runs([Step(20 * MB, 2 * MB, transforms=True)]) == []


def test_maps_are_cut_where_they_are_small() -> None:
    step = Step(12 * MB, 0)
    assert _runs([step] * 3, leaving=[9 * MB, 9 * MB, MB // 2, 9 * MB]) == [(0, 2)]
    assert _runs([step] * 3, entering=[MB, 0, 0, 0]) == [(0, 3)]
    assert _runs([step], entering=[9 * MB, 0]) == []


@pytest.mark.parametrize(
    ("batch", "cores", "images"),
    [(8, 2, 2), (8, 1, 1), (7, 4, 1), (64, 2, 4), (2, 2, 2), (17, 2, 17), (1, 2, 1)],
)
def test_two_images_for_several_cores_and_a_moderate_number_of_parts(
    batch: int, cores: int, images: int
) -> None:
    assert images_per_part(batch, cores) == images
