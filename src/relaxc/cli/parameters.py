"""Options that several commands share, and how they are read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

from relaxc.errors import OptionError
from relaxc.layout import Io, Precision
from relaxc.measure.feeds import FILL_MODES
from relaxc.measure.samples import imported
from relaxc.options import (
    CompileOptions,
    Shape,
    parse_input_shapes,
)

# Bumped when a field is renamed or removed; new ones may appear at any time.
JSON_SCHEMA_VERSION = 1

PRECISION_NAMES: dict[str, Precision] = {
    **dict.fromkeys(("f32", "fp32"), "float32"),
    "tf32": "tf32",
    **dict.fromkeys(("f16", "fp16"), "float16"),
    "bf16": "bfloat16",
    **dict.fromkeys(("f8", "fp8"), "float8"),
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


def stacked(
    *options: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> Callable[[_Command], _Command]:
    """Several options as one decorator, in the order in which `--help` lists them."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = cast("_Command", option(command))
        return command

    return decorate


# What every command takes.
common = stacked(
    click.option(
        "--debug", is_flag=True, help="Show native messages and, on errors, the traceback."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object only."),
)

# Shapes of inputs, in tvmc's and trtexec's spelling.
shapes = click.option(
    "--input-shapes",
    "--shapes",
    "input_shapes",
    multiple=True,
    metavar="NAME:SHAPE[,...]",
    help='Shapes of inputs, as "x:[1,3,224,224]" or "x:1x3x224x224".',
)

# Where inputs come from.
feed = stacked(
    click.option("-i", "--inputs", type=PATH, help="Read the inputs from this .npz file."),
    click.option(
        "--fill-mode",
        type=click.Choice(FILL_MODES),
        default="random",
        show_default=True,
        help="What to fill made-up inputs with.",
    ),
    click.option("--seed", default=0, show_default=True, help="Of the random inputs."),
)

threads = click.option(
    "--threads", type=int, help="Threads per inference.  [default: one per core]"
)

# Where to run.
device = click.option(
    "--device",
    help="`cpu`, `cuda`, `cuda:1` or `cuda:0,1`.  [default: what the artifact is for]",
)

# What shapes an artifact.
compiling = stacked(
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
)

_COMPILING = frozenset(
    {"target", "opt_level", "disabled_passes", "precision", "preprocess", "postprocess"}
)

# Where measurements of kernels are kept.
tuning_records = click.option(
    "--tuning-records",
    type=PATH,
    metavar="DIR|FILE",
    help="Measurements of `relaxc tune`.  [default: in the user's cache folder]",
)

# How inputs and outputs are stored.
io = click.option(
    "--io",
    type=click.Choice(tuple(IO_NAMES)),
    default="model",
    show_default=True,
    help="Float type of inputs and outputs.",
)


# The user's own measure.
evaluating = click.option(
    "--evaluate",
    metavar="MODULE:FUNCTION",
    help="Your own metric: called with the compiled model, loaded; returns a number.",
)


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


def read_shapes(texts: Iterable[str]) -> dict[str, Shape]:
    """Read all `--input-shapes`."""
    read: dict[str, Shape] = {}
    for text in texts:
        read |= parse_input_shapes(text)
    return read


def read_compile_options(
    *,
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


def refuse_compiling(reason: str) -> None:
    """Fail where an option of `compiling` is given, and nothing is compiled.

    Args:
        reason: why nothing is.

    Raises:
        OptionError: one is.
    """
    for name in _given(_COMPILING):
        raise OptionError(f"`{name}` is for models that are compiled first; {reason}")


def refuse_alone(names: Collection[str], main: str) -> None:
    """Fail where an option is given without the one that it belongs to.

    Args:
        names: parameters that mean nothing alone.
        main: what they go with.

    Raises:
        OptionError: one is given.
    """
    for name in _given(names):
        raise OptionError(f"`{name}` goes with {main}")


def _given(names: Collection[str]) -> list[str]:
    """Those of the current command's parameters that the user has given, as they are spelled."""
    context = click.get_current_context()
    return [
        "/".join((max(option.opts, key=len), *option.secondary_opts))
        for option in context.command.params
        if option.name in names
        and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]


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
