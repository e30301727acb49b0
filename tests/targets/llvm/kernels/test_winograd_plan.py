"""How convolutions by Winograd's method are shared out."""

from __future__ import annotations

from relaxc.targets.llvm.kernels.conv_spec import ConvSpec
from relaxc.targets.llvm.kernels.winograd_plan import Plan, winograd_plan
from relaxc.targets.llvm.machine import Machine

MACHINE = Machine(16, 32, 48 << 10, 1 << 20, cores=2)


def _plan(channels: int, size: int, kernel: tuple[int, int], machine: Machine = MACHINE) -> Plan:
    padding = (kernel[0] // 2, kernel[1] // 2) * 2
    spec = ConvSpec(
        1, channels, channels, 1, size, size, size, size, kernel, (1, 1), (1, 1), padding
    )
    plan = winograd_plan(spec, machine)
    assert plan is not None
    return plan


def test_each_core_transforms_what_it_multiplies_where_that_fits_its_cache() -> None:
    for channels in (128, 192):  # the weights of the latter outweigh a cache, a group's do not
        plan = _plan(channels, 17, (1, 7))
        assert (plan.by_group, plan.block, plan.parts) == (False, 77, 2)


def test_cores_share_groups_where_they_have_few_tiles() -> None:
    assert _plan(256, 14, (3, 3)).by_group  # 8 tiles a core: weights would be half of the work


def test_many_cores_do_not_transform_all_weights_each() -> None:
    machine = Machine(16, 32, 48 << 10, 1 << 20, cores=16)
    assert _plan(192, 17, (1, 7), machine).parts == 0
