"""The compiler on one page: every pass from the imported graph to fused loop nests, in order.

What follows (memory planning, VM code, machine code) depends on the target: see targets/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from relaxc.layout import Element, Precision
from relaxc.passes.base import Pass
from relaxc.passes.canonicalize.chain_pools import ChainPools
from relaxc.passes.canonicalize.commute_averages import CommuteAverages
from relaxc.passes.canonicalize.decompose_batch_norm import DecomposeBatchNorm
from relaxc.passes.canonicalize.flatten_maps import FlattenMaps
from relaxc.passes.canonicalize.fold_batch_norm import FoldBatchNorm
from relaxc.passes.canonicalize.fold_constant import FoldConstant
from relaxc.passes.canonicalize.fold_empty import FoldEmpty
from relaxc.passes.canonicalize.fold_kernels import FoldKernels
from relaxc.passes.canonicalize.fold_pad import FoldPad
from relaxc.passes.canonicalize.fold_space_to_depth import FoldSpaceToDepth
from relaxc.passes.canonicalize.lift_constants import LiftConstants
from relaxc.passes.canonicalize.narrow_rows import NarrowRows
from relaxc.passes.canonicalize.raise_activations import RaiseActivations
from relaxc.passes.canonicalize.raise_one_hot import RaiseOneHot
from relaxc.passes.canonicalize.raise_rms_norm import RaiseRmsNorm
from relaxc.passes.canonicalize.sink_permute import SinkPermute
from relaxc.passes.canonicalize.split_permute import SplitPermute
from relaxc.passes.fuse.annotate_patterns import AnnotatePatterns
from relaxc.passes.fuse.fuse_ops import FuseOps
from relaxc.passes.fuse.group_attention import AttentionLibrary, GroupAttention
from relaxc.passes.fuse.group_ops import GroupOps, KernelLibrary
from relaxc.passes.fuse.group_planes import GroupPlanes, PlanesLibrary
from relaxc.passes.fuse.group_rotary import GroupRotary, RotaryLibrary
from relaxc.passes.fuse.join_expansions import ExpansionLibrary, JoinExpansions
from relaxc.passes.fuse.merge_parallel_products import MergeParallelProducts
from relaxc.passes.fuse.sort_symbols import SortSymbols
from relaxc.passes.layout.choose_layout import ChooseLayout, LayoutLibrary
from relaxc.passes.layout.lower_groups import LowerGroups, LoweringLibrary
from relaxc.passes.layout.split_batch import BatchLibrary, SplitBatch
from relaxc.passes.lower.call_host_functions import CallHostFunctions
from relaxc.passes.lower.legalize_ops import LegalizeOps
from relaxc.passes.lower.lower_recurrent import LowerRecurrent, RecurrentLibrary
from relaxc.passes.lower.lower_resize import LowerResize, ResizeLibrary
from relaxc.passes.lower.lower_top_k import LowerTopK, TopKLibrary
from relaxc.passes.lower.order_bindings import OrderBindings
from relaxc.passes.precision.choose_precision import ChoosePrecision, PrecisionLibrary
from relaxc.passes.precision.widen_halves import WidenHalves
from relaxc.passes.quantize.realize import RealizeQuantization
from relaxc.passes.quantize.round_rows import RoundingLibrary, RoundRows
from relaxc.passes.stock import (
    DecomposeComposites,
    EliminateCommonSubexpressions,
    EliminateDeadCode,
    FuseTIR,
)

# What is stored between kernels; products of `float8` ask for theirs.
_HALVES: dict[Precision, Element] = {
    "bfloat16": "bfloat16",
    "float16": "float16",
    "float8": "float16",
}


class Library(
    AttentionLibrary,
    BatchLibrary,
    ExpansionLibrary,
    KernelLibrary,
    LayoutLibrary,
    LoweringLibrary,
    PlanesLibrary,
    PrecisionLibrary,
    RecurrentLibrary,
    ResizeLibrary,
    RotaryLibrary,
    RoundingLibrary,
    TopKLibrary,
    Protocol,
):
    """What the passes ask of a target's kernels."""

    @property
    def prefers_wide_products(self) -> bool:
        """Whether one wide product is faster than several narrow ones."""

    @property
    def widens_halves(self) -> bool:
        """Whether operators on float16 and bfloat16 are kernels' only if they are float32."""


def graph_passes(quantization: Sequence[Pass] = (), pruning: Sequence[Pass] = ()) -> list[Pass]:
    """What happens while the module still says what it computes, for any target.

    Args:
        quantization, pruning: as of `default_passes`.
    """
    return [
        # First: nobody after it sees an extent of 0 that is known.
        FoldEmpty(),
        # Canonicalize: one spelling per meaning, nothing computed that could be a constant.
        FoldConstant(),
        # After it, which is cheaper: only what it leaves is compiled.
        FoldKernels(),
        # Before quantization and common subexpressions: it looks for what exporters write.
        RaiseOneHot(),
        FoldBatchNorm(),
        DecomposeBatchNorm(),
        DecomposeComposites(),
        # Again: folded batch norms and decomposed ones leave arithmetic on constants behind.
        FoldConstant(),
        # Before operators are moved or copied: the formulas are still in one piece.
        RaiseActivations(),
        RaiseRmsNorm(),
        FoldPad(),
        FlattenMaps(),
        # Before anything looks for views.
        SplitPermute(),
        # Weights change their shape: before anything measures, prunes or rounds them.
        FoldSpaceToDepth(),
        ChainPools(),
        # After batch norms, which fold into a convolution before an average, are weights.
        CommuteAverages(),
        EliminateCommonSubexpressions(),
        EliminateDeadCode(),
        SinkPermute(),
        # Prune: batch norms are part of the weights now. Before quantization, because ranges are
        # those of the channels that remain.
        *pruning,
        # Quantize: weights are final now, and operators still say what they are.
        *quantization,
    ]


def default_passes(
    kernels: Library,
    quantization: Sequence[Pass] = (),
    precision: Precision = "float32",
    pruning: Sequence[Pass] = (),
    rounds_rows: bool = False,
    sharding: Sequence[Pass] = (),
) -> list[Pass]:
    """Return all passes; `compiler.py` leaves out what the options disable.

    Args:
        kernels: the target's kernel library.
        quantization: what quantizes; these passes take calibration data, which the compiler has.
        precision: how tensors between kernels are stored and multiplied.
        pruning: what prunes; these passes take data to judge and to recover by.
        rounds_rows: whether products with integer weights round their data to int8.
        sharding: what keeps one GPU's part of a model that several compute.
    """
    return [
        # First of all, because most passes look for float32.
        *([WidenHalves()] if kernels.widens_halves else []),
        *graph_passes(quantization, pruning),
        # Weights are constants by now, and projections are still products of their own.
        *sharding,
        # Nobody looks for layers as the model has them any more, and slices that attention reads
        # can still become a part of it.
        NarrowRows(),
        # Queries, keys and values as one product, while attention still reads them by views.
        *([MergeParallelProducts()] if kernels.prefers_wide_products else []),
        # Kernels: operators that the target computes well, each with the epilogue it can take.
        # Attention first: the next pass would take its softmax alone.
        GroupAttention(kernels),
        # Nor the multiplications of rotary embeddings; behind attention, whose views it may share.
        GroupRotary(kernels),
        # Before quantization is realized and layouts are chosen, for which groups count only.
        GroupPlanes(kernels),
        GroupOps(kernels),
        RealizeQuantization(),
        *([RoundRows(kernels)] if rounds_rows else []),
        # Groups are final, and it is known which are of integers; nothing between two joined ones
        # is stored, so before that is decided.
        JoinExpansions(kernels),
        # Before layouts, because tensors that share a buffer must be stored alike.
        *([ChoosePrecision(kernels, _HALVES[precision])] if precision in _HALVES else []),
        ChooseLayout(kernels),
        # After layouts, which all parts of a batch share; before kernels are written for a batch.
        SplitBatch(kernels),
        LowerGroups(kernels),
        LowerRecurrent(kernels, _HALVES.get(precision, "float32")),
        # Before fusion, which would join one of the two axes with what follows.
        LowerResize(kernels),
        # Before legalization, too: it would sort everything.
        LowerTopK(kernels),
        # Lower: the other operators become loop nests. Those without one first: legalization would
        # call functions of TVM's Python package.
        CallHostFunctions(),
        LegalizeOps(),
        # Fuse: after legalization, because patterns are read off the loop nests.
        AnnotatePatterns(),
        FuseOps(),
        FuseTIR(),
        SortSymbols(),
        # Fusion may have moved bindings before the symbols that they use.
        OrderBindings(),
        EliminateDeadCode(),
        # Last: scalars have been inlined into the loop nests by now, what is left is weights.
        LiftConstants(),
    ]
