"""How attention_joint.cu divides queries and keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relaxc.targets.cuda.groups.base import Context
from relaxc.targets.cuda.kernels.gemm import wgmma

_MOST_KEYS, _MOST_STAGES = 128, 3
_BARRIER_BYTES = 32  # of a stage: four barriers
# Elements of 128 bytes: depths between are padded.
_BLOCK = 64


@dataclass(frozen=True)
class JointTiling:
    """Sizes of tiles.

    Attributes:
        teams: times 64 queries of a block.
        keys: of a tile.
        stages: tiles of keys and values in shared memory.
        depth, width: of heads, padded.
    """

    teams: int
    keys: int
    stages: int
    depth: int
    width: int

    @staticmethod
    def choose(spec: Any, mask_bytes: int, context: Context) -> JointTiling | None:
        """The tiling for a problem; None where the kernel does not serve.

        Args:
            spec: sizes.
            mask_bytes: what masks have per score, while the scores are not there yet.
            context: the architecture, and the type of the products.
        """
        if not _serves(spec, context):
            return None
        # Larger blocks fetch less, but half of the GPU should have one.
        for teams in (2, 1) if spec.queries > _BLOCK else (1,):
            blocks = -(-spec.queries // (teams * _BLOCK)) * spec.batch * spec.heads
            if blocks * 2 >= context.gpu.multiprocessors:
                break
        else:
            return None
        # Registers hold the masks of a whole tile beside its scores.
        keys = _MOST_KEYS if mask_bytes <= 2 and spec.keys > _MOST_KEYS // 2 else _MOST_KEYS // 2
        stages = min(_MOST_STAGES, -(-spec.keys // keys))
        return JointTiling(teams, keys, stages, *_padded(spec))

    @staticmethod
    def every(spec: Any, mask_bytes: int, context: Context) -> list[JointTiling]:
        """All tilings that serve a problem; arguments are those of `choose`."""
        if not _serves(spec, context):
            return []
        teams = [1, 2] if spec.queries > _BLOCK else [1]
        keys = [_MOST_KEYS // 2]
        keys += [_MOST_KEYS] if mask_bytes <= 2 and spec.keys > _MOST_KEYS // 2 else []
        found = [
            JointTiling(t, k, min(n, -(-spec.keys // k)), *_padded(spec))
            for t in teams
            for k in keys
            for n in range(2, _MOST_STAGES + 1)
        ]
        return list(dict.fromkeys(found))

    @property
    def queries(self) -> int:
        """Of a block."""
        return self.teams * _BLOCK

    @property
    def threads(self) -> int:
        """Of a block: four warps fetch."""
        return self.teams * 128 + 128

    @property
    def shared_bytes(self) -> int:
        """What a block needs."""
        stage = self.keys * (self.depth + self.width) * 2 + _BARRIER_BYTES
        return self.queries * self.depth * 2 + self.stages * stage

    @property
    def constants(self) -> dict[str, int | str]:
        """What the kernel calls them."""
        return {
            "TEAMS": self.teams,
            "KEYS": self.keys,
            "STAGES": self.stages,
            "DQ": self.depth,
            "DV": self.width,
        }

    def switches(self, context: Context) -> list[str]:
        """Macros to define."""
        return [
            "STREAMED",
            f"WGMMA_COLUMNS {self.keys}",
            wgmma(context.mode, self.keys),
            f"V_COLUMNS {self.width}",
            f"V_BLOCK {self.keys * 128}",
            wgmma(context.mode, self.width, "VALUES"),
        ]


def _serves(spec: Any, context: Context) -> bool:
    is_joint = context.gpu.has_joint_products and context.mode in ("float16", "bfloat16")
    return is_joint and min(spec.depth, spec.width) > _BLOCK // 2


def _padded(spec: Any) -> tuple[int, int]:
    depth, width = (-(-d // _BLOCK) * _BLOCK for d in (spec.depth, spec.width))
    return depth, width
