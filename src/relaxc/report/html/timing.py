"""Where the time goes: kernels before and after, and how close they come to the machine's peaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relaxc.measure.profile import KernelTime, Profile
from relaxc.measure.roofline import Roofline
from relaxc.report.html.charts import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    axes,
    titled,
)

_SHOWN = 24
_COLORS = (BLUE, ORANGE, GREEN, PURPLE, VERMILION)


@dataclass(frozen=True)
class Timing:
    """A build and its profile."""

    name: str
    profile: Profile


def waterfall_chart(builds: Sequence[Timing]) -> str:
    """Every build's kernels one after the other: a bar begins where the one before it ends."""
    height = 1.6 + 0.24 * max(len(_shown(build.profile)) for build in builds) * len(builds)
    titles = {}
    with axes(8, height) as (axis, svg):
        row, labels = 0, []
        for index, build in enumerate(builds):
            start = 0.0
            for kernel in _shown(build.profile):
                width = kernel.min_s * 1e6
                color = GREY if kernel.name == _OTHERS else _COLORS[index % len(_COLORS)]
                (bar,) = axis.barh(row, width, left=start, color=color, height=0.8)
                bar.set_gid(f"kernel-{index}-{row}")
                titles[f"kernel-{index}-{row}"] = f"{label(kernel)}: {width:.1f} us ({kernel.name})"
                labels.append(label(kernel, 38))
                start += width
                row += 1
            axis.axhline(row - 0.5, color=GREY, linewidth=0.6)
            axis.annotate(
                f"{build.name}: {start:.4g} us",
                (1, row - len(_shown(build.profile))),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="center",
                fontsize=9,
            )
        axis.set_yticks(range(row), labels, fontsize=8)
        axis.set_ylim(row - 0.4, -0.6)
        axis.set_xlabel("us since the start of an inference, every kernel at its fastest")
    return titled(svg[0], titles)


_OTHERS = "(others)"


def _shown(profile: Profile) -> list[KernelTime]:
    """The costliest kernels in the order of execution, and the rest as one."""
    costly = sorted(profile.kernels, key=lambda kernel: -kernel.min_s)[:_SHOWN]
    kept = [kernel for kernel in profile.kernels if kernel in costly]
    rest = [kernel for kernel in profile.kernels if kernel not in costly]
    if not rest:
        return kept
    total = sum(kernel.min_s for kernel in rest)
    nodes = (f"{len(rest)} other kernels",)
    return [*kept, KernelTime(_OTHERS, nodes, len(rest), total, total, None, None, "float32")]


def label(kernel: KernelTime, longest: int = 80) -> str:
    """The ONNX nodes of a kernel, or its name; no longer than so many characters."""
    text = " + ".join(kernel.nodes) or kernel.name
    return text if len(text) <= longest else "…" + text[-longest + 1 :]


def roofline_chart(builds: Sequence[Timing], roofline: Roofline) -> str:
    """GFLOP/s over arithmetic intensity, under what the machine can do."""
    titles = {}
    with axes(8, 4.2) as (axis, svg):
        intensities = np.geomspace(0.05, 2000, 200)
        memory = roofline.memory_bytes_per_s / 1e9
        for dtype, rate in roofline.operations_per_s.items():
            style = "-" if dtype == "float32" else "--"
            axis.plot(
                intensities,
                np.minimum(intensities * memory, rate / 1e9),
                color=GREY,
                linestyle=style,
                linewidth=1.2,
            )
            axis.annotate(
                f"{dtype}: {rate / 1e9:.0f} GFLOP/s",
                (2000, rate / 1e9),
                ha="right",
                va="bottom",
                fontsize=8,
            )
        axis.annotate(f"memory: {memory:.0f} GB/s", (0.06, 0.075 * memory), rotation=35, fontsize=8)
        for index, build in enumerate(builds):
            first = True
            for number, kernel in enumerate(build.profile.kernels):
                if not kernel.flops or not kernel.bytes or not kernel.min_s:
                    continue
                name = f"roof-{index}-{number}"
                drawn = axis.scatter(
                    [kernel.flops / kernel.bytes],
                    [kernel.flops / kernel.min_s / 1e9],
                    s=20 + 600 * kernel.min_s / build.profile.sum_s,
                    color=_COLORS[index % len(_COLORS)],
                    alpha=0.6,
                    label=build.name if first else None,
                )
                drawn.set_gid(name)
                first = False
                titles[name] = (
                    f"{build.name}, {label(kernel)}: {kernel.flops / kernel.min_s / 1e9:.1f} "
                    f"GFLOP/s, {kernel.flops / kernel.bytes:.1f} operations per byte, "
                    f"{kernel.min_s * 1e6:.1f} us"
                )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("operations per byte of arguments and results")
        axis.set_ylabel("GFLOP/s")
        if len(builds) > 1:
            axis.legend(loc="lower right", fontsize=9)
    return titled(svg[0], titles)


def memory_chart(names: Sequence[str], timeline: Sequence[int]) -> str:
    """Bytes of intermediate results that are alive, operator by operator."""
    with axes(8, 2.6) as (axis, svg):
        values = [size / 1e6 for size in timeline]
        axis.fill_between(range(len(values)), values, step="mid", color=BLUE, alpha=0.4)
        peak = int(np.argmax(values))
        where = names[peak] if peak < len(names) else ""
        axis.annotate(
            f"peak {values[peak]:.3g} MB at {where}",
            (peak, values[peak]),
            xytext=(0, 4),
            textcoords="offset points",
            ha="left" if peak < len(values) / 2 else "right",
            fontsize=9,
        )
        axis.set_xlim(0, max(1, len(values) - 1))
        axis.set_ylim(0, 1.15 * max(values) or 1)
        axis.set_xlabel("operators of the imported model, in order")
        axis.set_ylabel("MB alive")
    return svg[0]


def passes_chart(seconds: dict[str, float]) -> str:
    """What each pass took, those that took next to nothing left out."""
    shown = {
        name: value for name, value in seconds.items() if value >= 0.01 * sum(seconds.values())
    }
    with axes(8, 0.8 + 0.24 * len(shown)) as (axis, svg):
        axis.barh(list(shown), list(shown.values()), color=BLUE, height=0.75)
        axis.invert_yaxis()
        axis.set_xlabel("seconds")
    return svg[0]
