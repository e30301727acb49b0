"""What a model does besides what it was trained for: preprocessing and postprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from relaxc.errors import OptionError
from relaxc.frontend.postprocess import Postprocess, add_postprocess, parse_postprocess
from relaxc.frontend.preprocess import Preprocess, add_preprocess, parse_preprocess


@dataclass(frozen=True)
class Extension:
    """Preprocessing of inputs and postprocessing of outputs."""

    before: tuple[Preprocess, ...] = ()
    after: tuple[Postprocess, ...] = ()

    @classmethod
    def parse(cls, before: Sequence[str], after: Sequence[str]) -> Extension:
        """Read the values of `--preprocess` and `--postprocess`.

        Raises:
            OptionError: a word is unknown, its value makes no sense, or a name is given twice.
        """
        found = cls(
            tuple(parse_preprocess(text) for text in before),
            tuple(parse_postprocess(text) for text in after),
        )
        for names in ([b.name for b in found.before], [a.name for a in found.after]):
            if len(set(names)) < len(names):
                raise OptionError("preprocessing or postprocessing is given twice for one tensor")
        return found

    def add_to(self, proto: onnx.ModelProto, inputs: list[str]) -> None:
        """Extend a model in place.

        Args:
            proto: the model, of opset 17 or newer.
            inputs: the inputs that users feed.

        Raises:
            OptionError: what is asked for does not fit the model.
        """
        for after in self.after:  # first: it may ask for the size of the network's own input
            add_postprocess(proto, after)
        for wanted in self.before:
            add_preprocess(proto, inputs, wanted)


NOTHING = Extension()
