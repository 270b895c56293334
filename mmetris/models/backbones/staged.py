"""What the Bridger asks of an image encoder: the same network, cut into stages.

    images -> stem -> stage 1 -> stage 2 -> ... -> stage N -> tail -> map
                                 ^ here the Bridger reads `feature_map` and adds to it with `inject`

A stage's *state* is whatever the encoder needs to go on (a map for a ResNet, tokens and their grid for a ViT); only
the encoder looks inside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor


class StageSpec(NamedTuple):
    """Width and resolution of one stage's feature map.

    Args:
        channels: Number of channels C.
        stride: Input pixels per map cell, along each side.
    """

    channels: int
    stride: int


def split_evenly(num_blocks: int, num_stages: int) -> list[range]:
    """Cut a stack of blocks into stages (Sec. 3.1: "evenly split").

    Args:
        num_blocks: Length of the stack, e.g. 12.
        num_stages: Number of stages N, e.g. 4 -> blocks 0-2, 3-5, 6-8, 9-11. Where it does not divide, sizes differ
            by at most one.

    Raises:
        ValueError: If there are more stages than blocks.
    """
    if not 1 <= num_stages <= num_blocks:
        raise ValueError(f'num_stages={num_stages} must lie between 1 and the number of blocks, {num_blocks}')
    ends = [round(num_blocks * stage / num_stages) for stage in range(num_stages + 1)]
    return [range(start, end) for start, end in zip(ends[:-1], ends[1:])]


def check_out_stages(out_stages: Sequence[int], num_stages: int) -> tuple[int, ...]:
    """Check the stages that take part: increasing, 1-based, ending with the last.

    Raises:
        ValueError: If they do not; the message repeats the value.
    """
    stages = tuple(out_stages)
    if not stages or list(stages) != sorted(set(stages)) or stages[0] < 1 or stages[-1] != num_stages:
        raise ValueError(
            f'out_stages={stages} must increase within 1..{num_stages} and end with the last stage, {num_stages}'
        )
    return stages


class StagedImageEncoder(ABC):
    """An image encoder in stages; mixed into a module.

    Attributes:
        num_stages: Number of stages N.
        stage_specs: :class:`StageSpec` of each stage, the first at index 0.
        out_stages: Stages (1-based) that take part in Bridger and decoder; the last one always does.
        tail_spec: :class:`StageSpec` of what :meth:`tail` returns.
        size_divisor: Height and width of the input must be multiples of this.
    """

    num_stages: int
    stage_specs: tuple[StageSpec, ...]
    out_stages: tuple[int, ...]
    tail_spec: StageSpec
    size_divisor: int

    @property
    def out_specs(self) -> tuple[StageSpec, ...]:
        """Specs of the maps that the decoder receives: those of ``out_stages``, the last one after the tail."""
        return tuple(self.stage_specs[stage - 1] for stage in self.out_stages[:-1]) + (self.tail_spec,)

    @abstractmethod
    def stem(self, images: Tensor) -> Any:
        """Images (B, 3, H, W) -> the state before stage 1.

        Raises:
            ValueError: If H or W is not a multiple of ``size_divisor``.
        """

    @abstractmethod
    def stage(self, index: int, state: Any) -> Any:
        """Run stage ``index`` (1-based)."""

    @abstractmethod
    def feature_map(self, state: Any) -> Tensor:
        """The state as a map (B, C, H / stride, W / stride)."""

    @abstractmethod
    def inject(self, state: Any, update: Tensor) -> Any:
        """Add a map (B, C, H / stride, W / stride) to the state."""

    @abstractmethod
    def select(self, state: Any, index: Tensor) -> Any:
        """Rows ``index`` (B',) of the state: one image's features for each of its sentences."""

    @abstractmethod
    def pack(self, state: Any) -> dict[str, Tensor]:
        """The state as tensors (B, ...) by name, to be kept in a file."""

    @abstractmethod
    def unpack(self, tensors: dict[str, Tensor], image_hw: tuple[int, int]) -> Any:
        """The inverse of :meth:`pack`, for images of that height and width."""

    @abstractmethod
    def tail(self, state: Any) -> Tensor:
        """What follows the last stage, kept as a map (B, C', H / stride, W / stride) in CLIP's shared space."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features of the encoder alone, without a Bridger: one map for each of ``out_stages``, as MMSeg's backbones
        return them."""
        state, maps = self.stem(images), []
        for index in range(1, self.num_stages + 1):
            state = self.stage(index, state)
            if index in self.out_stages[:-1]:
                maps.append(self.feature_map(state))
        return (*maps, self.tail(state))

    def check_size(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        divisor = self.size_divisor
        if height % divisor or width % divisor:
            padded = tuple(-(-size // divisor) * divisor for size in (height, width))
            raise ValueError(
                f'{type(self).__name__} takes images whose height and width are multiples of {divisor}, got '
                f'{height} x {width}. '
                f'Pad or letterbox them to {padded[0]} x {padded[1]} (data_preprocessor: size_divisor={divisor}).'
            )
