"""Image towers of timm's inside open_clip's dual encoders, in stages: SigLIP, EVA-CLIP, ConvNeXt CLIP, MobileCLIP.

    Vision Transformers:  patches, positions -- blocks ... blocks -- norm [-- projection of each patch] -> map
    convolutional nets:   stem -- stage 1 -- ... -- stage N -- last layers and projection of each cell -> map

The modules are timm's own, called one by one. What open_clip makes of an image, one vector, is
:meth:`TimmEncoder.embedding`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from open_clip.timm_model import TimmModel
from timm.layers import PatchEmbed, RotaryEmbeddingCat, resample_abs_pos_embed
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.fastvit import FastVit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mmetris.registry import MODELS
from mmetris.utils.shapes import hw_of
from mmetris.utils.tensor_memo import TensorMemo

from ..clip import ArchLike, DualEncoder
from ..clip.encoder import ClipEncoder
from ..encoders import StagedImageEncoder, StageSpec
from ..encoders.prompted_tokens import PromptedTokens
from ..encoders.roles import Role, transformer_roles
from ..encoders.staged import check_out_stages, split_evenly
from ..layers.position_embedding import ResizedPositions
from .clip_vit import TokenGrid, map_to_tokens, tokens_to_map

Trunk = TypeVar('Trunk', bound=nn.Module)


def _resize(embedding: Tensor, grid_hw: tuple[int, int], num_prefix: int, old_hw: tuple[int, int]) -> Tensor:
    """Positions on another grid as timm resizes them: bicubic, smoothed where the grid is made smaller."""
    return resample_abs_pos_embed(
        embedding, new_size=list(grid_hw), old_size=list(old_hw), num_prefix_tokens=num_prefix
    )


def _of_any_grid(rope: RotaryEmbeddingCat) -> RotaryEmbeddingCat:
    """The same rotary positions, computed for whatever grid is asked for, and not kept for one."""
    arguments = {name: getattr(rope, name) for name in inspect.signature(type(rope)).parameters if hasattr(rope, name)}
    return type(rope)(**(arguments | dict(feat_shape=None)))


class TimmEncoder(StagedImageEncoder, ClipEncoder):
    """Base of image encoders whose tower is timm's.

    Args:
        clip: The dual encoder that it is a side of.
        tower: open_clip's module around timm's tower, ``trunk``.
        **kwargs: Further arguments of :class:`ClipEncoder`.
    """

    part = 'image'
    tower: TimmModel

    @staticmethod
    def describe(arch: ArchLike, clip_checkpoint: str | None, quick_gelu: bool | None, encoder: str) -> DualEncoder:
        """The description of an architecture whose image tower is timm's.

        Args:
            arch: Its name or sizes.
            clip_checkpoint: The weights.
            quick_gelu: Activation of the text side.
            encoder: Class that asks, for the message.

        Raises:
            ValueError: If the tower is open_clip's own.
        """
        clip = DualEncoder.describe(arch, clip_checkpoint, quick_gelu)
        if not clip.is_timm:
            kind = 'CLIPResNet' if clip.is_resnet else 'CLIPViT'
            raise ValueError(
                f"{encoder} is for timm's towers, and that of arch {clip.name!r} is CLIP's own; use {kind}"
            )
        return clip

    @property
    def trunk(self) -> Any:
        """timm's tower."""
        return self.tower.trunk

    def embedding(self, state: Any) -> Tensor:
        """What open_clip makes of the whole image: the state after the last stage -> (B, embed_dim).

        It is no part of a segmentor, and comes without the length 1 that open_clip may give it.
        """
        raise NotImplementedError


def _fitting(tower: nn.Module, clip: DualEncoder, kinds: tuple[type[Trunk], ...], other: str) -> Any:
    trunk = tower.trunk
    if type(trunk) not in kinds:
        names = ' or '.join(kind.__name__ for kind in kinds)
        raise ValueError(
            f"the image tower of arch {clip.name!r}, timm's {clip.vision['timm_model_name']}, is a "
            f'{type(trunk).__name__}, no {names}; those of {other} can be cut too, others not'
        )
    return trunk


@MODELS.register_module()
class CLIPTimmViT(TimmEncoder):
    """A Vision Transformer of timm's inside a dual encoder, its blocks evenly split in N stages: SigLIP, EVA-CLIP.

    Any height and width that is a multiple of the patch will do: learned positions are resized to the grid as timm does
    it, rotary ones computed for it. The last map is the patches after the final norm, each projected into the shared
    space as open_clip projects the class token or the mean. Where it pools by a learned query (SigLIP, PE), which makes
    a vector of no single patch, the patches stay what the norm makes of them.

    Args:
        arch: ``'ViT-B-16-SigLIP2-384'``, ``'EVA02-B-16'``, or sizes with ``timm_model_name`` in ``vision_cfg``, see
            :func:`mmetris.models.clip.resolve_arch`.
        num_stages: Number of stages N. Defaults to 4.
        out_stages: Stages (1-based) that take part in Bridger and decoder. Defaults to None: the last three.
        **kwargs: ``clip_checkpoint``, ``quick_gelu`` (of the text side: timm's towers have their own activation),
            ``frozen``, ``tunable_parameters``, ``norm_eval``, ``tuning`` of :class:`ClipEncoder`.

    Shape:
        (B, 3, H, W) -> (B, width, H / patch, W / patch) for each stage but the last, (B, width or embed_dim, H /
        patch, W / patch) for that.

    Raises:
        ValueError: If the image tower is no such Transformer, makes its patches by more than one layer or has other
            positions, ``out_stages`` does not fit ``num_stages``, or the input is no multiple of the patch.
    """

    passed_by = ('', 'trunk', 'trunk.blocks', 'trunk.patch_embed')
    prompts: PromptedTokens | None

    def __init__(
        self,
        arch: ArchLike = 'ViT-B-16-SigLIP2-384',
        num_stages: int = 4,
        out_stages: Sequence[int] | None = None,
        clip_checkpoint: str | None = None,
        quick_gelu: bool | None = None,
        **kwargs: Any,
    ) -> None:
        clip = self.describe(arch, clip_checkpoint, quick_gelu, 'CLIPTimmViT')
        tower = clip.build_image_tower()
        trunk = _fitting(tower, clip, (VisionTransformer, Eva), 'ConvNeXt and FastVit (CLIPTimmConvNet)')
        _check_tokens(trunk, clip)
        if getattr(trunk, 'rope', None) is not None:
            trunk.rope = _of_any_grid(trunk.rope)
            self.no_prompts = (
                'has rotary positions, which timm counts from the first patch: no token can stand before it. LoRA, '
                'Adapter and BitFit tune it'
            )
        self.roles = transformer_roles([f'trunk.blocks.{index}' for index in range(len(trunk.blocks))])
        super().__init__(
            clip,
            tower,
            # Rotary positions are those of the patches, counted from the end of the tower's own tokens.
            token_channels=None if getattr(trunk, 'rope', None) is not None else trunk.embed_dim,
            tokens_before=min(1, trunk.num_prefix_tokens),
            **kwargs,
        )
        self.num_stages = num_stages
        self.out_stages = check_out_stages(out_stages, num_stages)
        self._stages = split_evenly(len(trunk.blocks), num_stages)
        self.size_divisor = trunk.patch_embed.patch_size[0]
        self.stage_specs = (StageSpec(trunk.embed_dim, self.size_divisor),) * num_stages
        self.projects = trunk.attn_pool is None
        self.tail_spec = StageSpec(clip.embed_dim if self.projects else trunk.embed_dim, self.size_divisor)
        self._positions = ResizedPositions(partial(_resize, old_hw=trunk.patch_embed.grid_size))
        self._rotations = TensorMemo()
        if not self.projects:
            # Nothing asks for the image's vector; DDP refuses parameters without gradient in full tuning.
            self.pretrained.untune(('trunk.attn_pool.', 'trunk.fc_norm.', 'trunk.head.', 'head.'))

    def stem(self, images: Tensor) -> TokenGrid:
        self.check_size(images)
        self.ensure_pretrained()
        trunk = self.trunk
        patches = trunk.patch_embed.proj(images)
        grid_hw = hw_of(patches)
        tokens = trunk.patch_embed.norm(map_to_tokens(patches))
        own = [token for token in (trunk.cls_token, trunk.reg_token) if token is not None]
        before = [token.to(tokens.dtype).expand(tokens.shape[0], -1, -1) for token in own]
        if trunk.no_embed_class:
            tokens = torch.cat([*before, self._placed(tokens, grid_hw, 0)], dim=1)
        else:
            tokens = self._placed(torch.cat([*before, tokens], dim=1), grid_hw, trunk.num_prefix_tokens)
        tokens = trunk.norm_pre(trunk.pos_drop(tokens))
        return TokenGrid(tokens if self.prompts is None else self.prompts.insert(tokens), grid_hw)

    def _placed(self, tokens: Tensor, grid_hw: tuple[int, int], num_prefix: int) -> Tensor:
        """Tokens (B, num_prefix + H * W, C) with their positions."""
        if self.trunk.pos_embed is None:
            return tokens
        return tokens + self._positions.get(self.trunk.pos_embed, grid_hw, num_prefix).to(tokens.dtype)

    def _rotation(self, grid_hw: tuple[int, int]) -> Tensor | None:
        """Rotary positions of the patches (H * W, 2 * width of a head); None where there are none."""
        rope = getattr(self.trunk, 'rope', None)
        if rope is None:
            return None
        return self._rotations.get(grid_hw, [rope.bands], lambda: rope.get_embed(shape=list(grid_hw)))

    def stage(self, index: int, state: TokenGrid) -> TokenGrid:
        tokens, rotation = state.tokens, self._rotation(state.grid_hw)
        for block in self._stages[index - 1]:
            # By position: MMEngine's activation checkpointing hands on no keywords.
            tokens = self.trunk.blocks[block](*((tokens,) if rotation is None else (tokens, rotation)))
        return TokenGrid(tokens, state.grid_hw)

    def parts(self, index: int) -> Sequence[Any]:
        trunk = self.trunk
        if index == 0:
            tokens = (trunk.cls_token, trunk.reg_token, trunk.pos_embed)
            prompts = () if self.prompts is None else self.prompts.sources
            return (trunk.patch_embed, *(part for part in tokens if part is not None), trunk.norm_pre, *prompts)
        if index <= self.num_stages:
            return [trunk.blocks[block] for block in self._stages[index - 1]]
        return (trunk.norm, trunk.fc_norm, trunk.head, self.tower.head) if self.projects else (trunk.norm,)

    def feature_map(self, state: TokenGrid) -> Tensor:
        return tokens_to_map(state.tokens[:, self._num_before :], state.grid_hw)

    def inject(self, state: TokenGrid, update: Tensor) -> TokenGrid:
        before, patches = state.tokens[:, : self._num_before], state.tokens[:, self._num_before :]
        return TokenGrid(torch.cat([before, patches + map_to_tokens(update)], dim=1), state.grid_hw)

    def tail(self, state: TokenGrid) -> Tensor:
        trunk = self.trunk
        patches = trunk.norm(state.tokens[:, self._num_before :])
        if self.projects:
            patches = self.tower.head(trunk.head(trunk.fc_norm(patches)))
        return tokens_to_map(patches, state.grid_hw)

    def embedding(self, state: TokenGrid) -> Tensor:
        tokens = state.tokens if self.prompts is None else self.prompts.remove(state.tokens)
        return self.tower.head(self.trunk.forward_head(self.trunk.norm(tokens)))

    @property
    def _num_before(self) -> int:
        """Tokens before the patches."""
        return self.trunk.num_prefix_tokens + (0 if self.prompts is None else self.prompts.num_tokens)


def _check_tokens(trunk: Any, clip: DualEncoder) -> None:
    """Refuse a Transformer whose tokens or positions are made in a way that is not known here."""
    name = f"the image tower of arch {clip.name!r}, timm's {clip.vision['timm_model_name']},"
    embed = trunk.patch_embed
    if type(embed) is not PatchEmbed:
        raise ValueError(
            f'{name} makes its patches by a {type(embed).__name__}; only one layer of patches can be cut off'
        )
    if len(set(embed.patch_size)) > 1:
        raise ValueError(f'{name} has patches of {tuple(embed.patch_size)}, which are not square')
    rope = getattr(trunk, 'rope', None)
    if rope is not None and type(rope) is not RotaryEmbeddingCat:
        raise ValueError(f'{name} has rotary positions of another kind, {type(rope).__name__}, than EVA-CLIP')


@MODELS.register_module()
class CLIPTimmConvNet(TimmEncoder):
    """A convolutional net of timm's inside a dual encoder, whose stages are the stages: ConvNeXt, MobileCLIP's FastViT.

    The last map is what the net's last layers make of each cell, projected into the shared space as open_clip projects
    their mean. For FastViT, which has no norm after the mean, its mean is open_clip's vector; ConvNeXt norms each cell
    here, and the mean there.

    Args:
        arch: ``'convnext_base_w_320'``, ``'MobileCLIP-S2'``, or sizes with ``timm_model_name`` in ``vision_cfg``, see
            :func:`mmetris.models.clip.resolve_arch`.
        num_stages: The net's own number of stages, for whoever says it to both encoders. Defaults to None: that.
        out_stages: Stages (1-based) that take part in Bridger and decoder. Defaults to None: the last three.
        **kwargs: ``clip_checkpoint``, ``quick_gelu`` (of the text side), ``frozen``, ``tunable_parameters``,
            ``norm_eval``, ``tuning`` of :class:`ClipEncoder`.

    Shape:
        (B, 3, H, W) -> (B, C_i, H / stride_i, W / stride_i) for each stage but the last, (B, embed_dim, H / stride, W /
        stride) for that.

    Raises:
        ValueError: If the image tower is no such net, ``num_stages`` or ``out_stages`` does not fit it, or the input is
            no multiple of the last stride.
    """

    passed_by = ('', 'trunk', 'trunk.stages', 'trunk.head')

    def __init__(
        self,
        arch: ArchLike = 'convnext_base_w_320',
        num_stages: int | None = None,
        out_stages: Sequence[int] | None = None,
        clip_checkpoint: str | None = None,
        quick_gelu: bool | None = None,
        **kwargs: Any,
    ) -> None:
        clip = self.describe(arch, clip_checkpoint, quick_gelu, 'CLIPTimmConvNet')
        tower = clip.build_image_tower()
        trunk = _fitting(tower, clip, (ConvNeXt, FastVit), 'VisionTransformer and Eva (CLIPTimmViT)')
        self.num_stages = len(trunk.stages)
        if num_stages not in (None, self.num_stages):
            raise ValueError(f'num_stages={num_stages} of arch {clip.name!r}: its net has {self.num_stages} stages')
        if isinstance(trunk, ConvNeXt):
            # Its networks behind the convolutions are no places of adapters: cells come to them with the channels last.
            self.roles = dict(conv=Role(('trunk.stages.*.conv_dw',)))
        super().__init__(clip, tower, **kwargs)
        self.out_stages = check_out_stages(out_stages, self.num_stages)
        self.stage_specs = tuple(StageSpec(info['num_chs'], info['reduction']) for info in trunk.feature_info)
        self.size_divisor = self.stage_specs[-1].stride
        self.tail_spec = StageSpec(clip.embed_dim, self.size_divisor)

    def stem(self, images: Tensor) -> Tensor:
        self.check_size(images)
        self.ensure_pretrained()
        return self.trunk.stem(images)

    def stage(self, index: int, state: Tensor) -> Tensor:
        return self.trunk.stages[index - 1](state)

    def parts(self, index: int) -> Sequence[Any]:
        trunk = self.trunk
        if index == 0:
            return (trunk.stem,)
        if index <= self.num_stages:
            return (trunk.stages[index - 1],)
        return (self._last, trunk.head, self.tower.head)

    @property
    def _last(self) -> nn.Module:
        """What stands between the last stage and the head."""
        return self.trunk.norm_pre if isinstance(self.trunk, ConvNeXt) else self.trunk.final_conv

    def feature_map(self, state: Tensor) -> Tensor:
        return state

    def inject(self, state: Tensor, update: Tensor) -> Tensor:
        return state + update

    def tail(self, state: Tensor) -> Tensor:
        head, cells = self.trunk.head, self._last(state)
        if (norm := getattr(head, 'norm', None)) is not None:  # Of a FastViT the head is the pool and a layer.
            cells = norm(cells)
        cells = cells.permute(0, 2, 3, 1)
        if (hidden := getattr(head, 'pre_logits', None)) is not None:
            cells = hidden(cells)
        return self.tower.head(head.fc(cells)).permute(0, 3, 1, 2)

    def embedding(self, state: Tensor) -> Tensor:
        return self.tower.head(self.trunk.forward_head(self._last(state)))
