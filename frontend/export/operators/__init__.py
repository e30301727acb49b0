"""One function per Relax operator, by family."""

from __future__ import annotations

from relaxc.frontend.export.operators import elementwise, layers, reductions, shapes
from relaxc.frontend.export.site import Translator

TRANSLATORS: dict[str, Translator] = {
    f"relax.{name}": translator
    for family in (elementwise, layers, reductions, shapes)
    for name, translator in family.TRANSLATORS.items()
}
