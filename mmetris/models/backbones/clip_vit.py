"""CLIP's ViT image encoder in stages (ETRIS, Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor

from mmetris.registry import MODELS

from ..clip import ArchLike, DualEncoder
from ..clip.encoder import TRANSFORMER_PASSED_BY, ClipEncoder, clip_transformer_roles
from ..encoders import StagedImageEncoder, StageSpec
from ..encoders.prompted_tokens import PromptedTokens
from ..encoders.staged import check_out_stages, split_evenly
from ..layers.position_embedding import ResizedPositions


class TokenGrid(NamedTuple):
    """State of a ViT between stages.

    Args:
        tokens: (B, 1 + P + H * W, C): the class token, P prompts, the patches row by row.
        grid_hw: Height and width of the patch grid.
    """

    tokens: Tensor
    grid_hw: tuple[int, int]


def tokens_to_map(tokens: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """(B, H * W, C) -> (B, C, H, W)."""
    return tokens.transpose(1, 2).unflatten(2, grid_hw)


def map_to_tokens(feature_map: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C)."""
    return feature_map.flatten(2).transpose(1, 2)


@MODELS.register_module()
class CLIPViT(StagedImageEncoder, ClipEncoder):
    """CLIP's Vision Transformer, its blocks evenly split in N stages (ETRIS, Sec. 3.1).

    Any height and width that is a multiple of the patch will do: position embeddings are resized to the grid, once for
    each size.

    Args:
        arch: ``'ViT-B-16'``, ``'ViT-B-32'``, ``'ViT-L-14'``, ``'ViT-L-14-336'``, or sizes, see
            :func:`mmetris.models.clip.resolve_arch`.
        num_stages: Number of stages N. Defaults to 4; the released code cuts 3.
        out_stages: Stages (1-based) that take part in Bridger and decoder. Defaults to None: the last three.
        **kwargs: ``clip_checkpoint``, ``quick_gelu``, ``frozen``, ``tunable_parameters``, ``norm_eval``, ``tuning`` of
            :class:`ClipEncoder`.

    Shape:
        (B, 3, H, W) -> (B, width, H / patch, W / patch) for each stage but the last, (B, embed_dim, H / patch, W /
        patch) for that.

    Raises:
        ValueError: If ``arch`` is no ViT, ``out_stages`` does not fit ``num_stages``, or the input is no multiple of
            the patch.
    """

    part = 'image'
    passed_by = TRANSFORMER_PASSED_BY
    tower: VisionTransformer
    prompts: PromptedTokens

    def __init__(
        self,
        arch: ArchLike = 'ViT-B-16',
        num_stages: int = 4,
        out_stages: Sequence[int] | None = None,
        clip_checkpoint: str | None = None,
        quick_gelu: bool | None = None,
        **kwargs: Any,
    ) -> None:
        clip = DualEncoder.describe(arch, clip_checkpoint, quick_gelu)
        clip.refuse_timm('CLIPViT')
        if clip.is_resnet:
            name = type(self).__name__
            other = name.replace('ViT', 'ResNet')
            raise ValueError(f'{name} cannot be built from arch {clip.name!r}, which is a ResNet; use {other}')
        tower = clip.build_image_tower()
        self.roles = clip_transformer_roles(tower.transformer)
        super().__init__(clip, tower, token_channels=tower.transformer.width, **kwargs)
        self.num_stages = num_stages
        self.out_stages = check_out_stages(out_stages, num_stages)
        self._stages = split_evenly(len(self.tower.transformer.resblocks), num_stages)
        patch, width = self.tower.patch_size[0], self.tower.transformer.width
        self.size_divisor = patch
        self.stage_specs = (StageSpec(width, patch),) * num_stages
        self.tail_spec = StageSpec(self.arch.embed_dim, patch)
        self._positions = ResizedPositions()

    def stem(self, images: Tensor) -> TokenGrid:
        self.check_size(images)
        self.ensure_pretrained()
        tower = self.tower
        patches = tower.conv1(images)
        grid_hw = tuple(patches.shape[-2:])
        tokens = map_to_tokens(patches)
        class_token = tower.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
        positions = self._positions.get(tower.positional_embedding, grid_hw)
        tokens = torch.cat([class_token, tokens], dim=1) + positions.to(tokens.dtype)
        return TokenGrid(self.prompts.insert(tower.ln_pre(tokens)), grid_hw)

    def stage(self, index: int, state: TokenGrid) -> TokenGrid:
        tokens = state.tokens
        for block in self._stages[index - 1]:
            tokens = self.tower.transformer.resblocks[block](tokens)
        return TokenGrid(tokens, state.grid_hw)

    def parts(self, index: int) -> Sequence[Any]:
        tower = self.tower
        if index == 0:
            embedding = (tower.conv1, tower.class_embedding, tower.positional_embedding, tower.ln_pre)
            return (*embedding, *self.prompts.sources)
        if index <= self.num_stages:
            return [tower.transformer.resblocks[block] for block in self._stages[index - 1]]
        return (tower.ln_post, tower.proj)

    def feature_map(self, state: TokenGrid) -> Tensor:
        return tokens_to_map(state.tokens[:, self._num_before :], state.grid_hw)

    def inject(self, state: TokenGrid, update: Tensor) -> TokenGrid:
        before, patches = state.tokens[:, : self._num_before], state.tokens[:, self._num_before :]
        return TokenGrid(torch.cat([before, patches + map_to_tokens(update)], dim=1), state.grid_hw)

    def tail(self, state: TokenGrid) -> Tensor:
        # The class token plays no part in a map, and LayerNorm and projection treat every token by itself.
        patches = self.tower.ln_post(state.tokens[:, self._num_before :])
        return tokens_to_map(patches @ self.tower.proj, state.grid_hw)

    def pool(self, state: TokenGrid) -> Tensor:
        """CLIP's own image feature (B, C') of the state after the last stage, in the space of sentences: that of the
        class token, or what else the architecture pools.

        Args:
            state: Tokens and their grid.
        """
        # Learnt prompts are no tokens of CLIP's.
        tokens = torch.cat([state.tokens[:, :1], state.tokens[:, self._num_before :]], dim=1)
        return self.tower._pool(tokens)[0] @ self.tower.proj

    @property
    def _num_before(self) -> int:
        """Tokens before the patches."""
        return 1 + self.prompts.num_tokens
