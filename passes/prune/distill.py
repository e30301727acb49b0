"""Train what is left of a model to do what the whole one does: no labels, the dense model teaches.

Gradient steps (training.py) on the given samples, on the model's outputs and on values in its
middle. A tenth of the samples is kept aside; the weights that do best there are the result, those
at the start included. Weights of zero stay zero.

The state is written down after every epoch, so that training goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tvm import IRModule, relax

from relaxc.errors import InputError, OptionError, OutputError
from relaxc.passes.prune.adam import Adam, scheduled
from relaxc.passes.prune.augment import Augmentation, augmented
from relaxc.passes.prune.features import features_of
from relaxc.passes.prune.operands import static_dim
from relaxc.passes.prune.reconstruct import Kept
from relaxc.passes.prune.segments import Arrays, Run, bindings_of, piece
from relaxc.passes.prune.training import Step, training_step, with_weights
from relaxc.replacing import replacing

# Below this share of zeros, a weight is not a pruned one.
_SPARSE = 0.05


@dataclass(frozen=True)
class Distillation:
    """How long and how fast.

    Attributes:
        epochs: times that every sample is seen.
        rate: the longest step, relative to the size of a weight.
        batch: samples per step, where the model's batch is open.
        augment: what happens to samples before they are shown.
        checkpoint: where the state is kept; None: nowhere.
        logits: names of outputs that are scores of classes.
        outputs: gives the names of all outputs, in order.
    """

    epochs: int = 20
    rate: float = 0.003
    batch: int = 32
    augment: tuple[Augmentation, ...] = ()
    checkpoint: Path | None = field(default=None, compare=False)
    logits: tuple[str, ...] = ()
    outputs: Callable[[], Sequence[str]] = field(default=tuple, compare=False, repr=False)


def distill(
    dense: IRModule,
    small: IRModule,
    kept: Kept | None,
    run: Run,
    samples: list[Arrays],
    options: Distillation,
    progress: Callable[[str], None] = lambda _text: None,
) -> IRModule:
    """The small module with trained weights.

    Args:
        dense: the teacher.
        small: the same bindings in the same order, some of them with fewer channels.
        kept: which channels of a dense variable are left, along the axis of a product's results;
            None if all are.
        run: compiles and runs modules.
        samples: arguments of `main`.
        options: how long and how fast.
        progress: told how far it is.

    Raises:
        OptionError: the model has branches, shapes that differ between samples, or an operator
            without a derivative.
    """
    if not all(isinstance(b, relax.DataflowBlock) for b in small["main"].body.blocks):
        raise OptionError("distillation is for models without branches and loops")
    features = features_of(dense, small, kept)
    return train(
        Pair(dense, small, tuple(i for i, _ in features), tuple(i for i, _ in features)),
        [mask for _, mask in features],
        run,
        samples,
        options,
        progress,
    )


@dataclass(frozen=True)
class Pair:
    """A teacher and a student.

    Attributes:
        teacher, student: both take the same inputs and give the same outputs.
        teacher_features, student_features: bindings of theirs that are compared.
        kept: student's binding -> which numbers of a weight that is stored as integers may move.
            Of other weights, all zeros stay where there are many.
    """

    teacher: IRModule
    student: IRModule
    teacher_features: tuple[int, ...] = ()
    student_features: tuple[int, ...] = ()
    kept: Mapping[int, np.ndarray] = field(default_factory=dict)


def train(
    pair: Pair,
    masks: Sequence[tuple[int, np.ndarray] | None],
    run: Run,
    samples: list[Arrays],
    options: Distillation,
    progress: Callable[[str], None] = lambda _text: None,
    judged: Callable[[float], None] = lambda _error: None,
) -> IRModule:
    """The student with trained weights.

    Args:
        pair: who teaches and who learns.
        masks: axis and indices of a teacher's feature that the student has; None: all.
        run: compiles and runs modules.
        samples: arguments of `main`.
        options: how long and how fast.
        progress: told how far it is.
        judged: told the error of the samples that are kept aside, at first and after every epoch.
    """
    data = _Data(samples, pair.student["main"], options.batch)
    student, teacher = (data.bound(mod) for mod in (pair.student, pair.teacher))
    bindings = bindings_of(teacher)
    wanted = [bindings[i].var for i in (*_results(teacher), *pair.teacher_features)]
    taught, order = piece(teacher, bindings, wanted)
    positions = [list(teacher["main"].params).index(var) for var in order]
    scores = _results(student, [options.outputs().index(name) for name in options.logits])
    step = training_step(student, _results(student), pair.student_features, scores)
    digest = _digest(samples, step, options)
    work = _Training(step, pair.kept, data, options, progress, judged, digest)

    def targets(inputs: Iterator[list[np.ndarray]]) -> Iterator[list[np.ndarray]]:
        first = len(wanted) - len(masks)
        feeds = ([arrays[p] for p in positions] for arrays in inputs)
        for values in run(taught, feeds):
            for number, mask in enumerate(masks):
                if mask is not None:
                    axis, which = mask
                    taken = np.compress(which, values[first + number], axis)
                    values[first + number] = np.ascontiguousarray(taken)
            yield values

    progress("distill: compiling")
    work.go(run, targets)
    return with_weights(pair.student, step.places, work.best)


class _Data:
    """Samples as batches of one size."""

    def __init__(self, samples: list[Arrays], main: relax.Function, batch: int) -> None:
        shapes = [list(param.ty.shape.values) for param in main.params]
        first = {str(shape[0]) for shape in shapes if shape}
        # One name for the first axis of all inputs: samples can be put together.
        is_open = len(first) == 1 and all(s and static_dim(s[0]) is None for s in shapes)
        self._columns = [[np.asarray(s[i]) for s in samples] for i in range(len(shapes))]
        if is_open:
            self._columns = [[row for a in column for row in a] for column in self._columns]
        if any(len({a.shape for a in column}) > 1 for column in self._columns):
            raise OptionError("distillation needs samples of one shape")
        self.count = len(self._columns[0])
        self._batch = min(batch, self.count) if is_open else None
        self._sizes = [
            column[0].shape if self._batch is None else (self._batch, *column[0].shape)
            for column in self._columns
        ]

    def bound(self, mod: IRModule) -> IRModule:
        """A module that takes these inputs, for batches of this size.

        Raises:
            OptionError: its shapes are others.
        """
        symbols: dict[str, int] = {}
        for param, sizes in zip(mod["main"].params, self._sizes, strict=True):
            for dim, size in zip(param.ty.shape.values, sizes, strict=True):
                known = static_dim(dim)
                told = symbols.setdefault(str(dim), int(size)) if known is None else known
                if told != size:
                    raise OptionError(
                        f"input `{param.name}` of teacher or student is not of shape {list(sizes)}"
                    )
        return relax.transform.BindSymbolicVars(symbols, "main")(mod) if symbols else mod

    def batches(self, which: np.ndarray) -> list[np.ndarray]:
        """Indices of each batch; the last one borrows from the first."""
        size = self._batch or 1
        missing = -len(which) % size
        return list(np.concatenate([which, np.resize(which, missing)]).reshape(-1, size))

    def arrays(self, which: np.ndarray) -> list[np.ndarray]:
        """One batch."""
        if self._batch is None:
            return [column[which[0]] for column in self._columns]
        return [np.stack([column[i] for i in which]) for column in self._columns]


class _Training:
    """The loop. `best` are the best weights so far."""

    def __init__(
        self,
        step: Step,
        kept: Mapping[int, np.ndarray],
        data: _Data,
        options: Distillation,
        progress: Callable[[str], None],
        judged: Callable[[float], None],
        digest: str,
    ) -> None:
        self._judged = judged
        self._step = step
        self._data = data
        self._options = options
        self._progress = progress
        self._digest = digest
        masks = [
            sparse_mask(w) if stored is None else kept.get(index)
            for (index, _), w, stored in zip(step.places, step.weights, step.rounded, strict=True)
        ]
        self._adam = Adam(step.weights, masks)
        self.best = [np.array(w) for w in step.weights]
        self._least = np.inf
        order = np.random.default_rng(0).permutation(data.count)
        aside = max(1, data.count // 10)
        self._aside = order[:aside]
        self._shown = order[aside:] if data.count > 1 else order
        self._epoch = 0
        self._restore()

    def go(
        self,
        run: Run,
        targets: Callable[[Iterator[list[np.ndarray]]], Iterator[list[np.ndarray]]],
    ) -> None:
        """Train until the last epoch ends."""
        shown: list[list[np.ndarray]] = []

        def inputs() -> Iterator[list[np.ndarray]]:
            for arrays in self._inputs():
                shown.append(arrays)
                yield arrays

        def feeds() -> Iterator[list[np.ndarray]]:
            for values in targets(inputs()):
                yield [*shown.pop(), *self._weights(), *values]

        results = run(self._step.mod, feeds())
        if self._epoch == 0:
            self._judge(results)
        steps = self._options.epochs * len(self._data.batches(self._shown))
        while self._epoch < self._options.epochs:
            for _ in self._data.batches(self._shown):
                _, *gradients = next(results)
                self._adam.step(gradients, scheduled(self._options.rate, self._adam.steps, steps))
                for i, stored in enumerate(self._step.rounded):
                    if stored is not None:
                        self._adam.weights[i] = stored.clipped(self._adam.weights[i])
            self._epoch += 1
            self._judge(results)
            self._save()

    def _weights(self) -> list[np.ndarray]:
        """Weights as the student has them: rounded, where it stores integers."""
        return [
            weight if stored is None else stored.shown(weight)
            for weight, stored in zip(self._adam.weights, self._step.rounded, strict=True)
        ]

    def _inputs(self) -> Iterator[list[np.ndarray]]:
        """What is shown, in the order in which `go` asks for it."""
        if self._epoch == 0:
            yield from map(self._data.arrays, self._data.batches(self._aside))
        for epoch in range(self._epoch, self._options.epochs):
            rng = np.random.default_rng(1 + epoch)
            for which in self._data.batches(rng.permutation(self._shown)):
                yield augmented(self._data.arrays(which), self._options.augment, rng)
            yield from map(self._data.arrays, self._data.batches(self._aside))

    def _judge(self, results: Iterator[list[np.ndarray]]) -> None:
        losses = [float(next(results)[0]) for _ in self._data.batches(self._aside)]
        loss = float(np.mean(losses))
        if loss < self._least:
            self._least, self.best = loss, [np.array(w) for w in self._adam.weights]
        self._judged(loss)
        self._progress(f"distill {self._epoch}/{self._options.epochs}: error {loss:.4f}")

    def _save(self) -> None:
        path = self._options.checkpoint
        if path is None:
            return
        arrays = self._adam.state() | {f"best{i}": w for i, w in enumerate(self.best)}
        arrays |= {
            "epoch": np.array(self._epoch),
            "least": np.array(self._least),
            "digest": np.array(self._digest),
        }
        try:
            with replacing(path) as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
        except OSError as err:
            raise OutputError(f"cannot write `{path}`: {err.strerror or err}") from err

    def _restore(self) -> None:
        path = self._options.checkpoint
        if path is None or not path.exists():
            return
        try:
            with np.load(path, allow_pickle=False) as held:
                arrays = dict(held)
            if str(arrays["digest"]) != self._digest:
                return
            self._adam.restore(arrays)
            self.best = [np.array(arrays[f"best{i}"]) for i in range(len(self.best))]
            self._epoch, self._least = int(arrays["epoch"]), float(arrays["least"])
        except Exception as err:  # NumPy, zipfile and zlib each raise their own
            raise InputError(f"`{path}` is not a checkpoint of relaxc; remove it") from err


def sparse_mask(weight: np.ndarray) -> np.ndarray | None:
    """Zeros of a pruned weight stay."""
    zeros = weight == 0
    return (~zeros).astype(np.float32) if weight.ndim > 1 and zeros.mean() > _SPARSE else None


def _results(mod: IRModule, which: Sequence[int] | None = None) -> list[int]:
    """Which bindings `main` returns, or some of them.

    Raises:
        OptionError: none of them is float32; or, of some, one is not.
    """
    bindings = bindings_of(mod)
    index = {b.var: i for i, b in enumerate(bindings)}
    result = mod["main"].body.body
    value = bindings[index[result]].value if isinstance(result, relax.Var) else result
    fields = list(value.fields) if isinstance(value, relax.Tuple) else [result]
    if which is not None:
        fields = [fields[i] for i in which]
    floats = [f for f in fields if str(f.ty.dtype.dtype) == "float32" and f in index]
    if which is not None and len(floats) < len(fields):
        raise OptionError("outputs that are compared as logits must be computed, in float32")
    if not floats and which is None:
        raise OptionError("distillation needs a float32 output")
    return [index[f] for f in floats]


def _digest(samples: list[Arrays], step: Step, options: Distillation) -> str:
    digest = hashlib.sha256(
        repr(options.__class__(**{**vars(options), "checkpoint": None})).encode()
    )
    for arrays in (*samples, step.weights):
        for array in arrays:
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
