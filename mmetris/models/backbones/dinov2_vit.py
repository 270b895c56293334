"""DINOv2's ViT in stages, frozen, whose blocks can read words (DETRIS, AAAI 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmetris.registry import MODELS
from mmetris.utils.shapes import hw_of

from ..encoders import FrozenEncoder, StagedImageEncoder, StageSpec
from ..encoders.prompted_tokens import PromptedTokens
from ..encoders.roles import transformer_roles
from ..encoders.staged import check_out_stages, split_evenly
from ..layers.position_embedding import ResizedPositions, resize_dinov2_positions
from ..layers.shortcut import reads_words
from .clip_vit import map_to_tokens, tokens_to_map
from .dinov2_tower import DINOv2Tower, resolve_sizes
from .dinov2_weights import fill_tower, read_dinov2

# Mean and standard deviation of ImageNet's images, RGB, 0..255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class ReadingTokens(NamedTuple):
    """State of a ViT whose blocks may read words.

    Args:
        tokens: (B, 1 + P + R + H * W, C): the class token, P prompts, R registers, the patches row by row.
        grid_hw: Height and width of the patch grid.
        words: (B, L, C') features of the words, None as long as none were handed over.
    """

    tokens: Tensor
    grid_hw: tuple[int, int]
    words: Tensor | None = None


@MODELS.register_module()
class DINOv2ViT(StagedImageEncoder, FrozenEncoder):
    """DINOv2's Vision Transformer, without or with registers, its blocks cut in N stages.

    It has no text side: beside it stands the text encoder of a CLIP. Any height and width that is a multiple of the
    patch will do; positions are resized to the grid as DINOv2 does it, once for each size.

    Args:
        arch: ``'dinov2_vits14'``, ``'dinov2_vitb14'``, ``'dinov2_vitl14'``, each also with ``'_reg'`` for four
            registers, or sizes, see :class:`~mmetris.models.backbones.dinov2_tower.DINOv2Sizes`. Defaults to
            ``'dinov2_vitb14_reg'``.
        num_stages: Number of stages N, evenly split. Defaults to 4.
        stage_ends: Number of blocks that have run at the end of each stage, the last being all: ``(1, 5, 9, 12)`` is
            block 0, blocks 1 to 4, 5 to 8, 9 to 11. Defaults to None: as ``num_stages`` says.
        out_stages: Stages (1-based) that take part in neck and decoder. Defaults to None: the last three.
        checkpoint: File of the weights: DINOv2's own ``.pth``, or timm's (``.pth``, ``.safetensors``). Defaults to
            None: random ones.
        interpolate_offset: Cells added to the wanted grid when the scale of the positions' resizing is computed.
            Defaults to 0.1, as DINOv2 has it without registers, and DETRIS with them; DINOv2's own towers with
            registers have 0.
        interpolate_antialias: Whether positions are smoothed where the grid is made smaller. Defaults to False,
            likewise; DINOv2's own towers with registers have True.
        **kwargs: ``frozen``, ``tunable_parameters``, ``tuning`` of :class:`FrozenEncoder`.

    Shape:
        (B, 3, H, W) -> (B, width, H / patch, W / patch) for each of ``out_stages``: the last one after the final norm,
        the others as they are.

    Raises:
        ValueError: If ``arch`` is unknown, ``stage_ends`` does not increase to the number of blocks, ``out_stages``
            does not fit, or the input is no multiple of the patch.
    """

    passed_by = ('', 'blocks')
    source_argument = 'checkpoint'
    hands_words = True
    tower: DINOv2Tower
    prompts: PromptedTokens

    def __init__(
        self,
        arch: str | Mapping = 'dinov2_vitb14_reg',
        num_stages: int = 4,
        stage_ends: Sequence[int] | None = None,
        out_stages: Sequence[int] | None = None,
        checkpoint: str | None = None,
        interpolate_offset: float = 0.1,
        interpolate_antialias: bool = False,
        **kwargs: Any,
    ) -> None:
        name, self.sizes = resolve_sizes(arch)
        self.roles = transformer_roles([f'blocks.{index}' for index in range(self.sizes.depth)])
        architecture = f'image encoder {name}'
        if (interpolate_offset, interpolate_antialias) != (0.1, False):  # Features kept by name must not be mixed up.
            architecture += f' (positions: offset {interpolate_offset}, antialias {interpolate_antialias})'
        super().__init__(DINOv2Tower(self.sizes), architecture, checkpoint, token_channels=self.sizes.width, **kwargs)
        self._stages = _cut(self.sizes.depth, num_stages, stage_ends)
        self.num_stages = len(self._stages)
        self.out_stages = check_out_stages(out_stages, self.num_stages)
        self.size_divisor = self.sizes.patch_size
        self.tail_spec = StageSpec(self.sizes.width, self.sizes.patch_size)
        self.stage_specs = (self.tail_spec,) * self.num_stages
        self._positions = ResizedPositions(
            partial(resize_dinov2_positions, offset=interpolate_offset, antialias=interpolate_antialias)
        )

    @property
    def checkpoint(self) -> str | None:
        """File of the weights, None for random ones."""
        return self.source

    @property
    def normalisation(self) -> dict[str, tuple[float, ...]]:
        """``mean`` and ``std`` of the images that it was trained on, ImageNet's, RGB, on the scale 0..255."""
        return dict(mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def load_tower(self, source: str) -> None:
        fill_tower(self.pretrained.tensors(), read_dinov2(source), source, self.architecture)

    def stem(self, images: Tensor) -> ReadingTokens:
        self.check_size(images)
        self.ensure_pretrained()
        tower = self.tower
        patches = tower.patch_embed(images)
        grid_hw = hw_of(patches)
        tokens = map_to_tokens(patches)
        batch = tokens.shape[0]
        tokens = torch.cat([tower.cls_token.to(tokens.dtype).expand(batch, -1, -1), tokens], dim=1)
        tokens = tokens + self._positions.get(tower.pos_embed, grid_hw).to(tokens.dtype)
        if tower.register_tokens is not None:
            registers = tower.register_tokens.to(tokens.dtype).expand(batch, -1, -1)
            tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)
        return ReadingTokens(self.prompts.insert(tokens), grid_hw)

    def stage(self, index: int, state: ReadingTokens) -> ReadingTokens:
        tokens = state.tokens
        for block in self._stages[index - 1]:
            # Words are handed from call to call, and kept nowhere: threads, a graph that is exported and a block that
            # is run a second time for its gradients all see the ones that belong to their tokens.
            tokens = self.tower.blocks[block](tokens, state.words, state.grid_hw)
        return ReadingTokens(tokens, state.grid_hw, state.words)

    @property
    def reading_stages(self) -> tuple[int, ...]:
        return tuple(
            index
            for index, blocks in enumerate(self._stages, start=1)
            if any(reads_words(self.tower.blocks[block]) for block in blocks)
        )

    def hand_words(self, state: ReadingTokens, words: Tensor) -> ReadingTokens:
        return ReadingTokens(state.tokens, state.grid_hw, words)

    def parts(self, index: int) -> Sequence[Any]:
        tower = self.tower
        if index == 0:
            tokens = (tower.cls_token, tower.pos_embed, tower.register_tokens)
            return (tower.patch_embed, *(part for part in tokens if part is not None), *self.prompts.sources)
        if index <= self.num_stages:
            return [tower.blocks[block] for block in self._stages[index - 1]]
        return (tower.norm,)

    def feature_map(self, state: ReadingTokens) -> Tensor:
        return tokens_to_map(state.tokens[:, self._num_before :], state.grid_hw)

    def inject(self, state: ReadingTokens, update: Tensor) -> ReadingTokens:
        before, patches = state.tokens[:, : self._num_before], state.tokens[:, self._num_before :]
        tokens = torch.cat([before, patches + map_to_tokens(update)], dim=1)
        return ReadingTokens(tokens, state.grid_hw, state.words)

    def tail(self, state: ReadingTokens) -> Tensor:
        # LayerNorm treats every token by itself, and only patches are part of a map.
        return tokens_to_map(self.tower.norm(state.tokens[:, self._num_before :]), state.grid_hw)

    @property
    def _num_before(self) -> int:
        """Tokens before the patches."""
        return 1 + self.prompts.num_tokens + self.sizes.num_registers


def _cut(depth: int, num_stages: int, stage_ends: Sequence[int] | None) -> list[range]:
    """Blocks of each stage."""
    if stage_ends is None:
        return split_evenly(depth, num_stages)
    ends = list(stage_ends)
    if not ends or ends != sorted(set(ends)) or ends[0] < 1 or ends[-1] != depth:
        raise ValueError(f'stage_ends={tuple(ends)} must increase within 1..{depth} and end with {depth}, all blocks')
    return [range(start, end) for start, end in pairwise([0, *ends])]
