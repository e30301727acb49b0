"""Least squares: the weights that make up best for what was removed.

In the order of the module, every product whose input lost channels gets the weights that bring
its result closest to the dense module's on calibration data (He et al., ICCV 2017; Luo et al.,
ICCV 2017). Its input is what the smaller module, corrected so far, computes; so errors do not add
up. Where the result is added to a skip connection, the sum is what is brought close, so
that a branch makes up for the drift of the skip as well. Biases move along.

The old weights pull: where the data says nothing, nothing changes. Weights of zero stay zero.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relaxc.errors import OptionError
from relaxc.passes.prune.least_squares import solve_within
from relaxc.passes.prune.products import Matrix, Product, picked, products_of
from relaxc.passes.prune.segments import (
    Arrays,
    Run,
    Values,
    bindings_of,
    common_shapes,
    of_shapes,
    with_constants,
    with_new_variables,
)

# Rows per unknown of a column; more make the estimate steadier and the pass slower.
_ROWS = 30
# How hard old weights pull, relative to the mean of the Gram matrix's diagonal.
_PULL = 1e-3

# Which indices of the dense result are left in the smaller one.
Kept = Callable[[relax.Var], np.ndarray | None]
# Turns the best weight of a product into one that is possible, given the Gram matrix of its data.
Settle = Callable[[Product, Matrix, Matrix], Matrix]


@dataclass(frozen=True)
class _Sum:
    """A product and what is added to it before anything else happens.

    Attributes:
        bias: position of the binding that adds a constant; None if nobody does.
        other: what the result is added to, in the smaller module; None if to nothing.
        last: position of the last addition.
    """

    bias: int | None
    other: relax.Var | None
    last: int


def reconstruct(
    dense: IRModule,
    small: IRModule,
    nodes: Collection[str],
    kept: Kept | None,
    run: Run,
    samples: list[Arrays],
    progress: Callable[[str], None] = lambda _text: None,
    settle: Settle | None = None,
) -> IRModule:
    """The small module with corrected weights.

    Args:
        dense: the module as it was.
        small: the same bindings in the same order, some of them with fewer channels.
        nodes: names of the products to correct.
        kept: which channels of a dense variable are left, along the axis of a product's results;
            None if all are.
        run: compiles and runs pieces.
        samples: arguments of `main`.
        progress: told how far it is.
        settle: what becomes of the best weights, such as rounding.

    Raises:
        OptionError: the module has branches or loops.
    """
    if not all(isinstance(b, relax.DataflowBlock) for b in small["main"].body.blocks):
        raise OptionError(
            "recovery and `obs` are for models without branches and loops; leave them out"
        )
    sizes = common_shapes(dense, samples)
    if sizes:
        return _at_shapes(dense, small, nodes, kept, run, samples, progress, settle, sizes)
    work = _Reconstruction(dense, small, kept, run, samples, settle)
    products = [p for p in products_of(small) if str(p.var.name) in nodes]
    for number in range(len(products)):
        progress(f"recover {number + 1}/{len(products)}")
        work.correct(products[number:])
    return work.module()


def _at_shapes(
    dense: IRModule,
    small: IRModule,
    nodes: Collection[str],
    kept: Kept | None,
    run: Run,
    samples: list[Arrays],
    progress: Callable[[str], None],
    settle: Settle | None,
    sizes: Mapping[str, int],
) -> IRModule:
    """`reconstruct` with symbols in shapes, by the samples that have these sizes."""
    bind = relax.transform.BindSymbolicVars(dict(sizes), "main")
    before = bind(dense)
    after = with_new_variables(bind(small), before["main"].params)
    samples = of_shapes(dense, sizes, samples)
    open_ = {b.var: o.var for b, o in zip(bindings_of(before), bindings_of(dense), strict=True)}
    left = None if kept is None else lambda var: kept(open_[var])
    done = reconstruct(before, after, nodes, left, run, samples, progress, settle)
    return with_constants(small, done)


class _Reconstruction:
    def __init__(
        self,
        dense: IRModule,
        small: IRModule,
        kept: Kept | None,
        run: Run,
        samples: list[Arrays],
        settle: Settle | None,
    ) -> None:
        self._settle = settle
        self._small = small
        self._kept = kept
        self._before = bindings_of(dense)
        self._after = bindings_of(small)
        self._index = {b.var: i for i, b in enumerate(self._after)}
        self._users: dict[relax.Var, list[int]] = {}
        for i, binding in enumerate(self._after):
            for var in relax.analysis.free_vars(binding.value):
                self._users.setdefault(var, []).append(i)
        self._result = small["main"].body.body
        inputs = {
            var: [np.asarray(sample[i]) for sample in samples]
            for i, var in enumerate(small["main"].params)
        }
        # The dense module's bindings and the smaller one's read the same inputs.
        self._values = Values(small, run, inputs)
        self._done = [0, 0]

    def correct(self, products: list[Product]) -> None:
        """Give the first of these the best weights; the others come later."""
        product = products[0]
        index = self._index[product.var]
        totals = [self._sum(self._index[p.var]) for p in products]
        targets = [self._before[total.last].var for total in totals]
        # The dense side runs up to the sum; the smaller one up to what the product reads.
        end = max(self._done[0], totals[0].last + 1)
        ahead = self._before[self._done[0] : end]
        behind = self._after[self._done[1] : index]
        later = [*self._before[end:], *self._after[index:]]
        self._values.advance([*ahead, *behind], later, targets)
        self._done = [end, index]
        self._solve(product, totals[0], targets[0])

    def _sum(self, index: int) -> _Sum:
        bias, other, last = None, None, index
        while True:
            var = self._after[last].var
            users = self._users.get(var, [])
            if len(users) != 1 or not isinstance(var, relax.DataflowVar):
                return _Sum(bias, other, last)
            call = self._after[users[0]].value
            if not isinstance(call, relax.Call) or str(getattr(call.op, "name", "")) != "relax.add":
                return _Sum(bias, other, last)
            left, right = call.args
            beside = right if left.same_as(var) else left
            if isinstance(beside, GenericConst):
                if bias is not None or not self._is_bias(beside, index):
                    return _Sum(bias, other, last)
                bias, last = users[0], users[0]
                continue
            known = self._index.get(beside, -1) < index
            if not known or beside.same_as(var) or list(beside.ty.shape) != list(var.ty.shape):
                return _Sum(bias, other, last)
            return _Sum(bias, beside, users[0])

    def _is_bias(self, const: GenericConst, index: int) -> bool:
        """Whether a constant holds one number per column of the product."""
        binding = self._after[index]
        dims = list(binding.var.ty.shape.values)
        axis = 1 if str(binding.value.op.name) != "relax.matmul" else len(dims) - 1
        shape = [int(d) for d in const.ty.shape.values]
        aligned = [1] * (len(dims) - len(shape)) + shape
        return all(n == (int(dims[axis]) if a == axis else 1) for a, n in enumerate(aligned))

    def _solve(self, product: Product, total: _Sum, target: relax.Var) -> None:
        old = product.matrix()
        var = self._before[self._index[product.var]].var
        keep = None if self._kept is None else self._kept(var)
        bias = self._bias(total.bias)
        columns = len(old) + 1
        gram = np.zeros((columns, columns))
        cross = np.zeros((columns, old.shape[1]))
        rows = 0
        data, wanted = self._values[product.data], self._values[target]
        per_sample = -(-_ROWS * columns // len(data))
        for number, (x, y) in enumerate(zip(data, wanted, strict=True)):
            pick = picked(product.count(x), per_sample, number)
            left = product.rows(x, pick)
            goal = np.asarray(product.results(y, pick), np.float64)
            if keep is not None:
                goal = goal[:, keep]
            if total.other is not None:
                goal -= product.results(self._values[total.other][number], pick)
            left = np.concatenate([left, np.ones((len(left), 1), left.dtype)], axis=1)
            error = (goal - bias - left[:, :-1] @ old).astype(left.dtype)
            gram += left.T @ left
            cross += left.T @ error
            rows += len(left)
        if total.bias is None:
            gram, cross = gram[:-1, :-1], cross[:-1]
        pull = _PULL * float(np.diag(gram)[: len(old)].mean()) + 1e-12 * rows
        damped = gram + pull * np.eye(len(gram))
        mask = np.ones(cross.shape, np.bool_)
        mask[: len(old)] = old != 0
        step = (
            np.asarray(np.linalg.solve(damped, cross), np.float64)
            if mask.all()
            else solve_within(damped, cross, mask)
        )
        new = old + step[: len(old)]
        if self._settle is not None:
            new = self._settle(product, new, damped[: len(old), : len(old)])
        self._update(product, total, new, step[len(old) :], bias)

    def _bias(self, position: int | None) -> Matrix:
        if position is None:
            return np.zeros(1, np.float64)
        return np.asarray(self._constant(position).value.numpy(), np.float64).reshape(-1)

    def _constant(self, position: int) -> GenericConst:
        return next(a for a in self._after[position].value.args if isinstance(a, GenericConst))

    def _update(
        self, product: Product, total: _Sum, new: Matrix, shift: Matrix, bias: Matrix
    ) -> None:
        builder = relax.BlockBuilder()
        call = builder.normalize(product.with_matrix(new))
        self._after[self._index[product.var]] = relax.VarBinding(product.var, call)
        if total.bias is None:
            return
        old = self._constant(total.bias)
        array = old.value.numpy()
        const = relax.const((bias + shift[0]).reshape(array.shape).astype(array.dtype))
        binding = self._after[total.bias]
        args = [const if a.same_as(old) else a for a in binding.value.args]
        call = builder.normalize(relax.Call(binding.value.op, args, binding.value.attrs))
        self._after[total.bias] = relax.VarBinding(binding.var, call)

    def module(self) -> IRModule:
        """The module with all corrections so far."""
        main = self._small["main"]
        blocks, start = [], 0
        for block in main.body.blocks:
            end = start + len(block.bindings)
            blocks.append(type(block)(self._after[start:end]))
            start = end
        body = relax.BlockBuilder().normalize(relax.SeqExpr(blocks, main.body.body))
        out = self._small.clone()
        out["main"] = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
        return out
