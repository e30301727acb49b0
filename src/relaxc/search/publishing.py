"""Where a search puts its artifacts: the best one at the output, the others beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from relaxc.replacing import replacing
from relaxc.search.builds import copy_artifact
from relaxc.search.journal import Journal, Trial
from relaxc.search.recipe import Run
from relaxc.search.standing import Standing

_RECIPE_SUFFIX = ".recipe.yaml"


@dataclass
class Publisher:
    """Copies artifacts, each with its recipe.

    Attributes:
        output: where the best one goes.
        journal: has the artifacts of trials.
        run_of: what it takes to build a trial's artifact again.
        published: number of the trial whose artifact is at the output.
    """

    output: Path
    journal: Journal
    run_of: Callable[[Trial], Run]
    published: int = -1

    def publish(self, trial: Trial) -> None:
        """Put a trial's artifact and recipe where the user wants them."""
        if trial.number == self.published:
            return
        copy_artifact(self.journal.artifact(trial), self.output)
        with replacing(self.output.with_name(self.output.name + _RECIPE_SUFFIX)) as file:
            file.write(self.run_of(trial).to_yaml().encode())
        self.published = trial.number

    def export(self, trials: Sequence[Trial], folder: Path) -> None:
        """Copy several to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for trial in trials:
            artifact = self.journal.artifact(trial)
            copy_artifact(artifact, folder / artifact.name)
            recipe = folder / f"{trial.number:03}{_RECIPE_SUFFIX}"
            recipe.write_text(self.run_of(trial).to_yaml(), encoding="utf-8")

    def clear(self, standing: Standing) -> None:
        """Drop the artifacts that nobody will ask for."""
        kept = {standing.base.number, self.published, *(t.number for t in standing.front())}
        for trial in standing.trials:
            if trial.number not in kept:
                self.journal.artifact(trial).unlink(missing_ok=True)
