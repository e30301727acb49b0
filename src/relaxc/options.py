"""What the user chose: frozen, validated, nothing read from the environment."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from relaxc.communicator import MOST_RANKS
from relaxc.distill_options import AUGMENTATIONS as AUGMENTATIONS
from relaxc.distill_options import Augmentation as Augmentation
from relaxc.distill_options import DistillOptions as DistillOptions
from relaxc.errors import OptionError, near_matches
from relaxc.layout import IO, Io, Precision
from relaxc.quantize_options import CALIBRATION_METHODS as CALIBRATION_METHODS
from relaxc.quantize_options import ERROR_CORRECTIONS as ERROR_CORRECTIONS
from relaxc.quantize_options import SCHEMES as SCHEMES
from relaxc.quantize_options import CalibrationMethod as CalibrationMethod
from relaxc.quantize_options import ErrorCorrection as ErrorCorrection
from relaxc.quantize_options import QuantizeOptions as QuantizeOptions
from relaxc.quantize_options import Scheme as Scheme
from relaxc.quantize_options import check_patterns
from relaxc.quantize_options import corrections_for as corrections_for

Shape = tuple["int | str", ...]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Saving = Literal["channels", "latency", "macs", "params"]
SAVINGS: tuple[Saving, ...] = get_args(Saving)
Importance = Literal["l1", "l2", "activation", "wanda", "obs", "fisher"]
IMPORTANCES: tuple[Importance, ...] = get_args(Importance)
Criterion = Literal["magnitude", "wanda", "obs"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
Scope = Literal["global", "local", "uniform", "sensitivity"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """Which channels are removed from the model.

    Attributes:
        saving: what is saved: `channels` (of those that could be removed), `macs`, `params`, or
            `latency`: of all kernels, timed on this machine.
        share: how much of it, between 0 and 1.
        importance: how channels are judged; all but `l1` and `l2` need samples.
        scope: `uniform` takes the same share everywhere, `local` compares channels with others of
            their layer, `global` with all others, for what they save; `sensitivity` likewise, by
            how much the model's result changes, which it measures on samples.
        exclude: ONNX nodes whose channels stay: names, or regular expressions.
        round_to: channel counts become multiples of it; `auto`: what the target's vectors hold.
        recover: correct the weights that are left, by samples.
        curves: for scope `sensitivity`, if it is known: group -> share of its channels -> how much
            worse the result gets.
        distill: then train what is left by samples; None: no.
    """

    saving: Saving
    share: float
    importance: Importance = "l2"
    scope: Scope = "uniform"
    exclude: tuple[str, ...] = ()
    round_to: int | Literal["auto"] = "auto"
    recover: bool = False
    curves: Mapping[str, Mapping[float, float]] = field(default_factory=dict, hash=False)
    distill: DistillOptions | None = None

    def __post_init__(self) -> None:
        known: tuple[tuple[str, str, tuple[str, ...]], ...] = (
            ("thing to save", self.saving, SAVINGS),
            ("importance", self.importance, IMPORTANCES),
            ("scope", self.scope, SCOPES),
        )
        for what, name, names in known:
            if name not in names:
                raise OptionError(
                    f"unknown {what} `{name}`{near_matches(name, names)}; use "
                    + ", ".join(f"`{n}`" for n in names)
                )
        if not 0 < self.share < 1:
            raise OptionError(
                f"the share of {self.saving} to save must be between 0 and 1, not {self.share:g}; "
                "0.3 saves 30 %"
            )
        if self.round_to != "auto" and (not isinstance(self.round_to, int) or self.round_to < 1):
            raise OptionError(f"round_to must be `auto` or at least 1, not {self.round_to}")
        if self.curves and self.scope != "sensitivity":
            raise OptionError(f"curves are for scope `sensitivity`, not `{self.scope}`")
        check_patterns(self.exclude)

    @property
    def needs_samples(self) -> bool:
        """Whether samples of real inputs are needed."""
        is_measured = self.scope == "sensitivity" and not self.curves
        is_corrected = self.recover or self.distill is not None
        return is_corrected or is_measured or self.importance not in ("l1", "l2")


@dataclass(frozen=True, kw_only=True)
class SparsifyOptions:
    """Which weights of convolutions and products become zero.

    Attributes:
        share: of the weights of every layer, between 0 and 1; not with a pattern.
        blocks: the share is of blocks, of one input and as many outputs as a vector of the target
            holds, which kernels leave out; layers that would not be faster stay dense.
        pattern: (2, 4) keeps two of every four neighbours that are summed.
        criterion: how weights are judged; `wanda` and `obs` need samples, and with `obs` the
            weights that are left make up for the others.
        exclude: ONNX nodes that stay dense: names, or regular expressions.
        recover: correct the weights that are left, by samples.
        distill: then train those weights by samples; None: no.
    """

    share: float = 0.0
    blocks: bool = False
    pattern: tuple[int, int] | None = None
    criterion: Criterion = "magnitude"
    exclude: tuple[str, ...] = ()
    recover: bool = False
    distill: DistillOptions | None = None

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise OptionError(
                f"unknown criterion `{self.criterion}`{near_matches(self.criterion, CRITERIA)}; "
                "use " + ", ".join(f"`{n}`" for n in CRITERIA)
            )
        if self.pattern is not None:
            kept, of = self.pattern
            if not 0 < kept < of or self.share or self.blocks:
                raise OptionError(
                    f"a pattern keeps some of several weights, as 2:4 does, not {kept}:{of}"
                    + (" with a share" if self.share else "")
                    + (" in blocks" if self.blocks else "")
                )
        elif not 0 < self.share < 1:
            raise OptionError(
                f"the share of {'blocks' if self.blocks else 'weights'} that become zero must be "
                f"between 0 and 1, not {self.share:g}"
            )
        check_patterns(self.exclude)

    @property
    def needs_samples(self) -> bool:
        """Whether samples of real inputs are needed."""
        return self.recover or self.distill is not None or self.criterion != "magnitude"


# Which weights become zero.
Zeros = Literal["unstructured", "block"]
ZEROS: tuple[Zeros, ...] = get_args(Zeros)


def parse_pruning(text: str) -> tuple[Saving | Zeros, float] | tuple[int, int]:
    """Parse `macs=0.5`, `unstructured=0.5`, `block=0.8` or `2:4`.

    Raises:
        OptionError: the text is not in one of these forms.
    """
    if match := re.fullmatch(r"(\d+):(\d+)", text):
        return int(match[1]), int(match[2])
    names = (*SAVINGS, *ZEROS)
    name, equals, number = text.partition("=")
    if name not in names or not equals:
        raise OptionError(
            f"cannot read `{text}`{near_matches(name, names)}; write what to save and how much "
            "of it, as in `macs=0.5`: " + ", ".join(f"`{n}`" for n in names) + "; or `2:4`"
        )
    try:
        return name, float(number)
    except ValueError as err:
        raise OptionError(f"`{number}` in `{text}` is not a number") from err


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """What shapes the artifact.

    Two compilations with equal options and equal tuning records give equal bytes, except where the
    speed gate of `quantize` finds layers faster once and slower the other time.

    Attributes:
        target: `llvm` for this CPU, a tvmc spelling such as `llvm -mcpu=znver5`, or JSON.
        input_shapes: input name -> dimensions; an int fixes one, a string names a symbolic one.
        opt_level: 0 (only what is needed to run) to 3 (everything that pays).
        disabled_passes: names of passes to leave out.
        prune: which channels to remove; None leaves all.
        sparsify: which weights to set to zero; None leaves all.
        quantize: how to quantize; None leaves the model in float.
        precision: what tensors are stored and multiplied as between inputs and outputs, which
            keep their dtype; sums are float32. `bfloat16` needs a GPU or a CPU with avx512bf16,
            `float16`, `tf32` (products of float32 tensors read eleven bits) and `float8` (float16,
            but products with weights on four) a GPU.
        io: float type of inputs and outputs: the `model`'s, `float32`, `float16` or
            `bfloat16`.
        preprocess: what the model does to its images first, as `--preprocess` takes it.
        postprocess: what it does to its outputs at last, as `--postprocess` takes it.
        tensor_parallel: among how many GPUs the layers of a transformer are divided; 1 divides
            nothing.
        tuning_records: where `relaxc tune` has written what it measured: a file, or a folder that
            holds one; `default` is the user's cache, None uses none.
    """

    target: str = "llvm"
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    opt_level: int = 3
    disabled_passes: tuple[str, ...] = ()
    prune: PruneOptions | None = None
    sparsify: SparsifyOptions | None = None
    quantize: QuantizeOptions | None = None
    precision: Precision = "float32"
    io: Io = "model"
    preprocess: tuple[str, ...] = ()
    postprocess: tuple[str, ...] = ()
    tensor_parallel: int = 1
    tuning_records: Path | Literal["default"] | None = "default"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise OptionError(
                f"unknown precision `{self.precision}`{near_matches(self.precision, PRECISIONS)}; "
                f"use {' or '.join(f'`{p}`' for p in PRECISIONS)}"
            )
        if self.io not in IO:
            raise OptionError(f"unknown type `{self.io}` of inputs and outputs; use one of {IO}")
        if not 1 <= self.tensor_parallel <= MOST_RANKS:
            raise OptionError(
                f"a model is divided among up to {MOST_RANKS} GPUs, not {self.tensor_parallel}"
            )
        if self.opt_level not in range(4):
            raise OptionError(f"opt_level must be 0, 1, 2 or 3, not {self.opt_level}")
        for name, shape in self.input_shapes.items():
            for dim in shape:
                if isinstance(dim, int) and dim < 1:
                    raise OptionError(f"dimension {dim} of input `{name}` must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """What to show of a compilation; never changes the artifact.

    Attributes:
        print_ir_before: passes before which the IR is printed.
        print_ir_after: passes after which the IR is printed.
        dump_dir: folder to receive the IR after every pass, the assembly and the manifest.
        verify: check after every pass that the module is well formed.
        echo: receives the IR that is printed.
        on_phase: told the name of every phase as it begins.
        on_step: told every node of the model and every pass, as its turn comes.
        ranges: say what the data of layers quantized to int8 hold.
        exclusions: measure what leaving the least exact of them float would buy.
        checkpoint: file that keeps the state of distillation, to go on from when run again; None:
            nothing is kept.
    """

    print_ir_before: tuple[str, ...] = ()
    print_ir_after: tuple[str, ...] = ()
    dump_dir: Path | None = None
    verify: bool = False
    echo: Callable[[str], None] = print
    on_phase: Callable[[str], None] = lambda _phase: None
    on_step: Callable[[str], None] = lambda _step: None
    ranges: bool = False
    exclusions: bool = False
    checkpoint: Path | None = None


_ENTRY = re.compile(
    r"\s*(?P<name>[^\s,]+?)\s*:\s*(?:\[(?P<list>[^\]]*)\]|(?P<x>[\w.?-]+(?:x[\w.?-]+)*))\s*(?:,|$)"
)


def parse_input_shapes(text: str) -> dict[str, Shape]:
    """Parse `x:[1,3,224,224],y:[n,5]`, or trtexec's `x:1x3x224x224`.

    Raises:
        OptionError: the text is not in one of these forms.
    """
    shapes: dict[str, Shape] = {}
    position = 0
    while position < len(text.rstrip()):
        match = _ENTRY.match(text, position)
        if match is None:
            raise OptionError(
                f"cannot read input shapes from `{text[position:]}`; "
                'write for example "x:[1,3,224,224],mask:[1,128]"'
            )
        listed = match["list"]
        parts = listed.split(",") if listed is not None else match["x"].split("x")
        if listed is not None and not listed.strip():
            parts = []
        shapes[match["name"]] = tuple(_dimension(p.strip(), text) for p in parts)
        position = match.end()
    if not shapes:
        raise OptionError("no input shapes given")
    return shapes


def _dimension(part: str, text: str) -> int | str:
    if re.fullmatch(r"-?\d+", part):
        if int(part) < 1:
            raise OptionError(
                f"dimension {part} in `{text}` must be at least 1; use a name for a symbolic one"
            )
        return int(part)
    if re.fullmatch(r"[A-Za-z_]\w*", part):
        return part
    raise OptionError(f"`{part}` in `{text}` is neither a number nor a name")
