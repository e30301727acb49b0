"""Set the weights that matter least to zero, and let the others make up for it.

Before:                              After, 2:4:
    lv = R.matmul(x, w[8, 5])            lv = R.matmul(x, w'[8, 5])   # of 4 rows, 2 are zero

| method | which weights go |
|---|---|
| `magnitude` | the smallest |
| `wanda` | the smallest times the norm of what they are multiplied by (Sun et al., ICLR 2024) |
| `obs` | those that cost the least error when later rows make up for it (SparseGPT, Frantar & Alistarh, ICML 2023); at last all that are left are fitted by least squares. Layer by layer: on data that pruned layers give |

Fires when: a convolution of one group or a product has a constant float32 weight.
Leaves alone: excluded nodes; weights whose rows do not divide into groups of an N:M pattern;
with blocks, layers whose kernels would not be faster.
Changes results: yes. Kernels leave out blocks that are zero; single zeros are multiplied.
Must run after: canonicalization, prune-channels. Must run before: quantization.
"""  # noqa: E501

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
from tvm import IRModule, relax

from relaxc.errors import OptionError, near_matches
from relaxc.passes.base import Pass
from relaxc.passes.blocks import rewrite_main
from relaxc.passes.prune.distill import Distillation, distill
from relaxc.passes.prune.importance import gram_matrices
from relaxc.passes.prune.least_squares import solve_within
from relaxc.passes.prune.products import Matrix, Product, products_of
from relaxc.passes.prune.reconstruct import reconstruct
from relaxc.passes.prune.segments import Arrays, Run, with_new_variables

Criterion = Literal["magnitude", "wanda", "obs"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)

Mask = npt.NDArray[np.bool_]
# Rows that are decided at once and whose errors the rows below take up.
_BLOCK = 128


@dataclass(frozen=True)
class Unstructured:
    """Any weights, a share of every weight tensor; with `obs`, of every block of rows.

    Attributes:
        share: of the weights that become zero.
    """

    share: float

    def mask(self, scores: Matrix) -> Mask:
        """Which weights stay."""
        drop = round(self.share * scores.size)
        order = np.argsort(scores, axis=None, kind="stable")
        mask = np.ones(scores.size, np.bool_)
        mask[order[:drop]] = False
        return mask.reshape(scores.shape)

    def fits(self, _rows: int) -> bool:
        """Any weight does."""
        return True


@dataclass(frozen=True)
class NOfM:
    """Of every `m` neighbours that are summed, `n` stay.

    Attributes:
        n: how many stay.
        m: of how many.
    """

    n: int
    m: int

    def mask(self, scores: Matrix) -> Mask:
        """Which weights stay."""
        grouped = scores.reshape(-1, self.m, scores.shape[1])
        ranks = np.argsort(np.argsort(-grouped, axis=1, kind="stable"), axis=1)
        return np.asarray(ranks < self.n).reshape(scores.shape)

    def fits(self, rows: int) -> bool:
        """Whole groups."""
        return rows % self.m == 0


@dataclass(frozen=True)
class Blocks:
    """Runs of neighbouring columns of a row, a share of every weight tensor.

    Attributes:
        share: of the blocks that become zero.
        columns: how many outputs of an input a block holds; the last ones of a row may be fewer.
    """

    share: float
    columns: int

    def mask(self, scores: Matrix) -> Mask:
        """Which weights stay."""
        width = scores.shape[1]
        padded = np.pad(scores, ((0, 0), (0, -width % self.columns)))
        sums = padded.reshape(len(scores), -1, self.columns).sum(axis=2)
        kept = Unstructured(self.share).mask(sums)
        return np.repeat(kept, self.columns, axis=1)[:, :width]

    def fits(self, _rows: int) -> bool:
        """Any weight does."""
        return True


Pattern = Unstructured | NOfM | Blocks


@dataclass(frozen=True)
class PruneWeights(Pass):
    """Set weights to zero.

    Attributes:
        pattern: how many, and where.
        criterion: how weights are judged, and whether others make up for them.
        exclude: nodes that stay dense: names, or regular expressions that match whole names.
        recover: whether weights that are left are corrected, in the order of the module.
        run: compiles a module and runs it; `wanda`, `obs` and recovery need it.
        samples: gives arguments of `main`.
        progress: told how far the work is.
        distillation: how to train the weights that are left, at last; None: not.
        pays: whether a product gets faster by its zeros; others stay dense.
    """

    pattern: Pattern
    criterion: Criterion = "magnitude"
    exclude: tuple[str, ...] = ()
    recover: bool = False
    run: Run | None = None
    samples: Callable[[], list[Arrays]] = list
    progress: Callable[[str], None] = lambda _text: None
    distillation: Distillation | None = None
    pays: Callable[[relax.Call], bool] = lambda _call: True

    name: ClassVar[str] = "prune-weights"
    required: ClassVar[bool] = True

    def apply(self, mod: IRModule) -> IRModule:
        """Prune `main`.

        Raises:
            OptionError: no weight can be pruned, or what is excluded matches no node.
        """
        products = self._candidates(products_of(mod))
        names = {str(p.var.name) for p in products}
        sparse = (
            self._in_turn(mod, names) if self.criterion == "obs" else self._at_once(mod, products)
        )
        if self.recover:
            assert self.run is not None
            # Bindings get variables of their own: both modules run side by side.
            fresh = with_new_variables(sparse)
            samples = self.samples()
            sparse = reconstruct(mod, fresh, names, None, self.run, samples, self.progress)
        if self.distillation is not None:
            assert self.run is not None
            samples, how = self.samples(), self.distillation
            sparse = distill(mod, sparse, None, self.run, samples, how, self.progress)
        return sparse

    def _at_once(self, mod: IRModule, products: list[Product]) -> IRModule:
        """Every weight by itself."""
        grams: Mapping[relax.Var, Matrix] = {}
        if self.criterion == "wanda":
            assert self.run is not None
            grams = gram_matrices(mod, products, self.run, self.samples())
        pruned = {p.var: p.with_matrix(self._pruned(p, grams)) for p in products}

        def rewrite(block: relax.BindingBlock) -> list[relax.Binding]:
            builder = relax.BlockBuilder()
            return [
                relax.VarBinding(b.var, builder.normalize(pruned[b.var])) if b.var in pruned else b
                for b in block.bindings
            ]

        return rewrite_main(relax.BlockBuilder(mod), rewrite)

    def _in_turn(self, mod: IRModule, names: set[str]) -> IRModule:
        """Each weight for what the pruned ones before it leave to make up for."""
        assert self.run is not None

        def settle(_product: Product, weight: Matrix, gram: Matrix) -> Matrix:
            return refitted(weight, compensated(weight, gram, self.pattern), gram)

        fresh, samples = with_new_variables(mod), self.samples()
        return reconstruct(mod, fresh, names, None, self.run, samples, self.progress, settle)

    def _candidates(self, products: list[Product]) -> list[Product]:
        nodes = {_node(p) for p in products}
        for pattern in self.exclude:
            if not any(_matches(pattern, node) for node in nodes):
                raise OptionError(
                    f"`{pattern}` is to be excluded from pruning, but no convolution or product "
                    "has such a name" + near_matches(pattern, nodes)
                )
        found = [
            p
            for p in products
            if self.pattern.fits(len(p.matrix()))
            and self.pays(p.call)
            and not any(_matches(pattern, _node(p)) for pattern in self.exclude)
        ]
        if not found:
            raise OptionError(
                "no weight can be pruned: the model has no convolution or product with constant "
                "weights that the pattern fits and whose kernel gains by it, or all are excluded"
            )
        return found

    def _pruned(self, product: Product, grams: Mapping[relax.Var, Matrix]) -> Matrix:
        weight = product.matrix()
        if self.criterion == "magnitude":
            return weight * self.pattern.mask(weight**2)
        norms = np.sqrt(np.diag(grams[product.var]))[:, None]
        return weight * self.pattern.mask((weight * norms) ** 2)


def compensated(weight: Matrix, gram: Matrix, pattern: Pattern) -> Matrix:
    """Prune row by row; rows below take up the error of each (SparseGPT).

    Args:
        weight: rows are summed over.
        gram: the mean of outer products of what the rows are multiplied by.
        pattern: decides in blocks of rows, each when the rows above are done.
    """
    rows = len(weight)
    damping = 0.01 * float(np.diag(gram).mean()) + 1e-12
    inverse = np.linalg.inv(gram + damping * np.eye(rows))
    # Row i of the factor is the inverse of what is left when rows above i are done.
    factor = np.linalg.cholesky(inverse).T
    scale = np.diag(factor)[:, None]
    weight = weight.copy()
    block = pattern.m if isinstance(pattern, NOfM) else _BLOCK
    for start in range(0, rows, block):
        end = min(start + block, rows)
        keep = pattern.mask((weight[start:end] / scale[start:end]) ** 2)
        errors = np.zeros((end - start, weight.shape[1]))
        for i in range(start, end):
            pruned = np.where(keep[i - start], weight[i], 0)
            errors[i - start] = (weight[i] - pruned) / factor[i, i]
            weight[i] = pruned
            weight[i + 1 : end] -= np.outer(factor[i, i + 1 : end], errors[i - start])
        weight[end:] -= factor[start:end, end:].T @ errors
    return weight


def refitted(dense: Matrix, start: Matrix, gram: Matrix) -> Matrix:
    """The weights of `start` that are not zero, as they come closest to `dense` by least squares.

    Rows that were done early could not know what the later ones would leave to make up for.
    """
    damped = gram + 1e-4 * float(np.diag(gram).mean()) * np.eye(len(gram))
    return start + solve_within(damped, damped @ (dense - start), start != 0)


def _node(product: Product) -> str:
    return re.sub(r"\.\d+$", "", str(product.var.name))


def _matches(pattern: str, node: str) -> bool:
    return pattern == node or re.fullmatch(pattern, node) is not None
