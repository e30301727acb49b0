"""Operators that sum over axes, and those that order along one."""

from __future__ import annotations

from collections.abc import Sequence

from relaxc.frontend.export.site import CannotExport, Site, Translator, dtype_of, numbers


def _reduction(op_type: str) -> Translator:
    def translate(site: Site) -> list[str]:
        axes = None if site.attrs.axis is None else numbers(site.attrs.axis)
        return [reduced(site, op_type, site.input(0), axes, int(site.attrs.keepdims))]

    return translate


def reduced(site: Site, op_type: str, x: str, axes: Sequence[int] | None, keepdims: int) -> str:
    """A reduction; axes became an input with opset 18, of a sum with 13."""
    if axes is None:
        return site.emit(op_type, x, keepdims=keepdims)
    if site.graph.opset < 18 and op_type != "ReduceSum":
        return site.emit(op_type, x, axes=list(axes), keepdims=keepdims)
    return site.emit(op_type, x, site.integers(axes, "axes"), keepdims=keepdims)


def _variance(site: Site) -> list[str]:
    attrs, x = site.attrs, site.input(0)
    axes = None if attrs.axis is None else numbers(attrs.axis)
    centered = site.emit("Sub", x, reduced(site, "ReduceMean", x, axes, 1))
    square = site.emit("Mul", centered, centered)
    return [reduced(site, "ReduceMean", square, axes, int(attrs.keepdims))]


def _extreme_index(op_type: str) -> Translator:
    def translate(site: Site) -> list[str]:
        attrs = site.attrs
        if attrs.axis is None or dtype_of(site.call) != "int64":
            raise CannotExport("it looks at all axes, or gives other indices than int64")
        keep = int(attrs.keepdims)
        return [site.emit(op_type, site.input(0), axis=int(attrs.axis), keepdims=keep)]

    return translate


TRANSLATORS: dict[str, Translator] = {
    **{name: _reduction(f"Reduce{name.capitalize()}") for name in ("max", "mean", "min", "prod")},
    "sum": _reduction("ReduceSum"),
    "variance": _variance,
    "argmax": _extreme_index("ArgMax"),
    "argmin": _extreme_index("ArgMin"),
}
