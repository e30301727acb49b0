"""Options that several commands share, and how they are read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from relaxc.errors import OptionError
from relaxc.layout import Io, Precision
from relaxc.measure.feeds import FILL_MODES
from relaxc.measure.samples import imported
from relaxc.options import (
    CALIBRATION_METHODS,
    SCHEMES,
    CompileOptions,
    ErrorCorrection,
    QuantizeOptions,
    Shape,
    corrections_for,
    parse_input_shapes,
)

# Bumped when a field is renamed or removed; new ones may appear at any time.
JSON_SCHEMA_VERSION = 1

PRECISION_NAMES: dict[str, Precision] = {
    **dict.fromkeys(("f32", "fp32"), "float32"),
    "tf32": "tf32",
    **dict.fromkeys(("f16", "fp16"), "float16"),
    "bf16": "bfloat16",
}

IO_NAMES: dict[str, Io] = {"model": "model", "f32": "float32", "f16": "float16", "bf16": "bfloat16"}

PATH = click.Path(path_type=Path)

# Of options that train.
BATCH = "Samples per step, where the model's batch is open."
LOGITS = (
    "Compare this output as scores of classes along its last axis: by the probabilities that "
    "follow from them. For language models; may be repeated."
)
_Command = TypeVar("_Command", bound=Callable[..., Any])


def common(command: _Command) -> _Command:
    """Options that every command takes."""
    debug = click.option(
        "--debug", is_flag=True, help="Show native messages and, on errors, the traceback."
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object only.")
    return debug(as_json(command))


def shapes(command: _Command) -> _Command:
    """Shapes of inputs, in tvmc's and trtexec's spelling."""
    return click.option(
        "--input-shapes",
        "--shapes",
        "input_shapes",
        multiple=True,
        metavar="NAME:SHAPE[,...]",
        help='Shapes of inputs, as "x:[1,3,224,224]" or "x:1x3x224x224".',
    )(command)


def feed(command: _Command) -> _Command:
    """Where inputs come from."""
    options = [
        click.option("-i", "--inputs", type=PATH, help="Read the inputs from this .npz file."),
        click.option(
            "--fill-mode",
            type=click.Choice(FILL_MODES),
            default="random",
            show_default=True,
            help="What to fill made-up inputs with.",
        ),
        click.option("--seed", default=0, show_default=True, help="Of the random inputs."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def threads(command: _Command) -> _Command:
    """How many threads to use."""
    return click.option(
        "--threads", type=int, help="Threads per inference.  [default: one per core]"
    )(command)


def device(command: _Command) -> _Command:
    """Where to run."""
    return click.option(
        "--device",
        help="`cpu`, `cuda`, `cuda:1` or `cuda:0,1`.  [default: what the artifact is for]",
    )(command)


def compiling(command: _Command) -> _Command:
    """Options that shape an artifact."""
    options = [
        click.option(
            "--target",
            default="llvm",
            show_default=True,
            help='`llvm` for this CPU, or for example "llvm -mcpu=znver5", "cuda -arch=sm_90".',
        ),
        click.option(
            "-O",
            "--opt-level",
            type=click.IntRange(0, 3),
            default=3,
            show_default=True,
            help="0: only what is needed to run, 3: everything that pays.",
        ),
        click.option(
            "--disabled-pass",
            "disabled_passes",
            multiple=True,
            metavar="NAME",
            help="Leave out a pass; may be repeated.",
        ),
        click.option(
            "--precision",
            type=click.Choice(tuple(PRECISION_NAMES)),
            default="f32",
            show_default=True,
            help="How tensors between inputs and outputs are stored and multiplied.",
        ),
        click.option(
            "--preprocess",
            multiple=True,
            metavar="INPUT:WORD,...",
            help='Make this a part of the model, such as "image:dtype=uint8,layout=NHWC,'
            'size=480x640,resize=256,crop,scale=1/255,mean=.485:.456:.406,std=.229:.224:.225".',
        ),
        click.option(
            "--postprocess",
            multiple=True,
            metavar="[OUTPUT:]WORD,...",
            help='Make this a part of the model: "softmax", "argmax", "topk=5", "softmax,topk=5".',
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def tuning_records(command: _Command) -> _Command:
    """Where measurements of kernels are kept."""
    return click.option(
        "--tuning-records",
        type=PATH,
        metavar="DIR|FILE",
        help="Measurements of `relaxc tune`.  [default: in the user's cache folder]",
    )(command)


def io(command: _Command) -> _Command:
    """How inputs and outputs are stored."""
    return click.option(
        "--io",
        type=click.Choice(tuple(IO_NAMES)),
        default="model",
        show_default=True,
        help="Float type of inputs and outputs.",
    )(command)


def quantizing(command: _Command) -> _Command:
    """How to quantize."""
    options = [
        click.option(
            "--quantize",
            type=click.Choice(SCHEMES),
            help="Compute on integers: with ranges measured before, with ranges found as the model "
            "runs, or keep just the weights of matrix products as integers.",
        ),
        click.option(
            "--group-size",
            type=int,
            metavar="N",
            help="Rows of a weight that share a scale, except with int8.  [default: all, for "
            "int4-weights 32]",
        ),
        click.option(
            "--calibrate",
            metavar="DATA",
            help="Samples of real inputs: an .npz file with the samples along the first axis, a "
            "folder with one .npz file each, or module:function.",
        ),
        click.option(
            "--calibration",
            type=click.Choice(CALIBRATION_METHODS),
            default="minmax",
            show_default=True,
            help="How the range of an activation is read off the samples.",
        ),
        click.option(
            "--correct",
            metavar="WORD,...",
            help="What makes up for rounding, by the samples: "
            + _listed(corrections_for("int8"))
            + " with int8, "
            + _listed(corrections_for("int8-weights"))
            + " with others; `none` for nothing.  [default: "
            + ",".join(QuantizeOptions().corrections)
            + " and "
            + ",".join(QuantizeOptions(scheme="int8-weights").corrections)
            + "]",
        ),
        click.option(
            "--least-sqnr",
            type=float,
            metavar="DB",
            default=QuantizeOptions().least_sqnr_db,
            show_default=True,
            help="Leave layers float whose signal to noise ratio is less with int8; 0: none.",
        ),
        click.option(
            "--most-noise",
            type=float,
            metavar="SHARE",
            help="Leave the least exact int8 layers float until the noise of all, each relative to "
            "its signal, sums up to this; 0.01 is 20 dB.",
        ),
        click.option(
            "--per-channel/--per-tensor",
            default=True,
            show_default=True,
            help="One scale per output channel of a weight, or one per weight.",
        ),
        click.option(
            "--symmetric/--asymmetric",
            default=False,
            show_default=True,
            help="Zero point of activations: the middle of the range, or where it fits best.",
        ),
        click.option(
            "--exclude",
            multiple=True,
            metavar="NODE",
            help="Leave a node float: its name, or a regular expression; may be repeated.",
        ),
        click.option(
            "--recipe",
            type=PATH,
            metavar="FILE",
            help="Read what to do from this YAML file instead: how to quantize, prune and store. "
            "`--calibrate` gives the samples for it.",
        ),
        click.option(
            "--speed-gate/--no-speed-gate",
            default=True,
            show_default=True,
            help="Time every layer on integers and in float on this machine, and leave it float "
            "if that is not slower; for int8 and int8-dynamic. Times are kept.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def evaluating(command: _Command) -> _Command:
    """The user's own measure."""
    return click.option(
        "--evaluate",
        metavar="MODULE:FUNCTION",
        help="Your own metric: called with the compiled model, loaded; returns a number.",
    )(command)


def read_function(text: str | None) -> Callable[[Any], Any] | None:
    """Read `--evaluate`.

    Raises:
        OptionError: there is no such function.
    """
    if text is None:
        return None
    module, _, name = text.partition(":")
    if not module or not name:
        raise OptionError(f"`{text}` is not a function; write `module:function`")
    return imported(module, name)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def read_corrections(text: str | None) -> tuple[ErrorCorrection, ...] | None:
    """Read `--correct`; the options complain about words that are none."""
    if text is None:
        return None
    words = tuple(word.strip() for word in text.split(","))
    return () if words == ("none",) else cast("tuple[ErrorCorrection, ...]", words)


def read_shapes(texts: Iterable[str]) -> dict[str, Shape]:
    """Read all `--input-shapes`."""
    read: dict[str, Shape] = {}
    for text in texts:
        read |= parse_input_shapes(text)
    return read


def read_compile_options(
    target: str,
    opt_level: int,
    disabled_passes: tuple[str, ...],
    input_shapes: Iterable[str],
    precision: str,
    preprocess: tuple[str, ...],
    postprocess: tuple[str, ...],
) -> CompileOptions:
    """Read the options of `compiling` and `shapes`."""
    return CompileOptions(
        target=target,
        opt_level=opt_level,
        disabled_passes=disabled_passes,
        input_shapes=read_shapes(input_shapes),
        precision=PRECISION_NAMES[precision],
        preprocess=preprocess,
        postprocess=postprocess,
    )


def print_json(command: str, fields: dict[str, Any]) -> None:
    """Print the result of a command as JSON; numbers that are not finite become null."""
    document = {"schema_version": JSON_SCHEMA_VERSION, "command": command, **fields}
    click.echo(json.dumps(_plain(document), indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def warn(messages: Iterable[str]) -> None:
    """Print warnings on stderr."""
    for message in messages:
        click.echo(f"warning: {message}", err=True)
