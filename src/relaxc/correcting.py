"""What corrects the errors of rounding, by one compilation's data."""

from __future__ import annotations

from collections.abc import Callable

from relaxc.options import Diagnostics
from relaxc.probes import Probes
from relaxc.pruning import training_pass
from relaxc.quantizing import Correction, Study


def correction_on(
    probes: Probes, diagnostics: Diagnostics, on_study: Callable[[Study], None]
) -> Correction:
    """Corrections that run on the samples of `probes`; `on_study` is told what layers lose."""
    return Correction(
        probes.run,
        probes.shown,
        probes.run_once,
        on_study,
        probes.once,
        lambda how, teacher: training_pass(
            how,
            teacher,
            probes.run,
            probes.samples,
            diagnostics,
            lambda: probes.imported.outputs,
        ),
    )
