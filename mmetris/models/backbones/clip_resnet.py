"""CLIP's ResNet image encoder in stages (ETRIS, Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torch.nn import functional as F

from mmetris.registry import MODELS

from ..clip import ArchLike, DualEncoder
from ..clip.encoder import ClipEncoder
from ..encoders import FrozenWeights, StagedImageEncoder, StageSpec
from ..encoders.roles import Role
from ..encoders.staged import check_out_stages
from ..layers.folded_norm import conv_norm
from ..layers.map_attention_pool import MapAttentionPool


@MODELS.register_module()
class CLIPResNet(StagedImageEncoder, ClipEncoder):
    """CLIP's ResNet; its four residual layers are the stages (ETRIS, Sec. 3.1).

    The tail is CLIP's attention pool with every position as a query, so that its result stays a map.

    Args:
        arch: ``'RN50'``, ``'RN101'``, ``'RN50x4'``, ``'RN50x16'``, or sizes, see
            :func:`mmetris.models.clip.resolve_arch`.
        out_stages: Stages (1-based) that take part in Bridger and decoder. Defaults to None: the last three, of strides
            8, 16 and 32.
        pool_mean_key: Whether the mean of the map, which is CLIP's pooling query, stays a key of the attention pool.
            Defaults to True, as CLIP was trained; the released code leaves it out, and its position with it.
        pool_shortcut: Whether a 1x1 convolution with BatchNorm is added around the pool, and a ReLU after it. It is
            in no CLIP, so its weights are random and, in a frozen encoder, stay so. Defaults to False; the released
            code has it, and the 120.74 M of the paper's "full tuning" (Table 2) count it.
        **kwargs: ``clip_checkpoint``, ``quick_gelu``, ``frozen``, ``tunable_parameters``, ``norm_eval``, ``tuning`` of
            :class:`ClipEncoder`.

    Shape:
        (B, 3, H, W) -> (B, C_i, H / stride_i, W / stride_i) for each stage but the last, (B, embed_dim, H / 32, W /
        32) for that.

    Raises:
        ValueError: If ``arch`` is no ResNet, ``out_stages`` is out of order, or the input is no multiple of 32.
    """

    part = 'image'
    tower: ModifiedResNet
    num_stages = 4
    size_divisor = 32
    # A branch beside a convolution is added after the normalisation, before the ReLU. The pool is the only attention.
    roles = dict(attention=Role(('attnpool',)), conv=Role(('layer[234].*.conv2',), 'bn2'))

    def __init__(
        self,
        arch: ArchLike = 'RN101',
        out_stages: Sequence[int] | None = None,
        pool_mean_key: bool = True,
        pool_shortcut: bool = False,
        clip_checkpoint: str | None = None,
        quick_gelu: bool | None = None,
        **kwargs: Any,
    ) -> None:
        clip = DualEncoder.describe(arch, clip_checkpoint, quick_gelu)
        clip.refuse_timm('CLIPResNet')
        if not clip.is_resnet:
            name = type(self).__name__
            other = name.replace('ResNet', 'ViT')
            raise ValueError(f'{name} cannot be built from arch {clip.name!r}, which is a ViT; use {other}')
        tower = clip.build_image_tower()
        tower.attnpool = MapAttentionPool.of(tower.attnpool, pool_mean_key)
        super().__init__(clip, tower, **kwargs)
        self.out_stages = check_out_stages(out_stages, self.num_stages)
        layers = (self.tower.layer1, self.tower.layer2, self.tower.layer3, self.tower.layer4)
        self.stage_specs = tuple(
            StageSpec(layer[-1].conv3.out_channels, stride) for layer, stride in zip(layers, (4, 8, 16, 32))
        )
        self.tail_spec = StageSpec(self.arch.embed_dim, 32)
        self.pool_shortcut = None
        if pool_shortcut:
            self.pool_shortcut = nn.Sequential(
                nn.Conv2d(self.stage_specs[-1].channels, self.arch.embed_dim, 1, bias=False),
                nn.BatchNorm2d(self.arch.embed_dim),
            )
            self._shortcut_weights = FrozenWeights(self.pool_shortcut, self.frozen, norm_eval=self.norm_eval)
            self.train()

    def train(self, mode: bool = True) -> CLIPResNet:
        super().train(mode)
        if getattr(self, 'pool_shortcut', None) is not None:
            self._shortcut_weights.train(mode)
        return self

    def stem(self, images: Tensor) -> Tensor:
        self.check_size(images)
        self.ensure_pretrained()
        out, tower = self._laid_out(images), self.tower
        out = tower.act1(conv_norm(tower.conv1, tower.bn1, out))
        out = tower.act2(conv_norm(tower.conv2, tower.bn2, out))
        out = tower.act3(conv_norm(tower.conv3, tower.bn3, out))
        return tower.avgpool(out)

    @staticmethod
    def _laid_out(x: Tensor) -> Tensor:
        """In channels_last, a layout that goes on from convolution to convolution, the decoder's included.

        It saves time, but not in a backward pass on a CPU, where the gradients of weights take twice as long.
        """
        if x.device.type == 'cpu' and torch.is_grad_enabled():
            return x
        return x.contiguous(memory_format=torch.channels_last)

    def stage(self, index: int, state: Tensor) -> Tensor:
        return getattr(self.tower, f'layer{index}')(self._laid_out(state))

    def parts(self, index: int) -> Sequence[Any]:
        tower = self.tower
        if index == 0:
            stem = [tower.conv1, tower.bn1, tower.act1, tower.conv2, tower.bn2, tower.act2, tower.conv3, tower.bn3]
            return (*stem, tower.act3, tower.avgpool)
        if index <= self.num_stages:
            return (getattr(tower, f'layer{index}'),)
        return (tower.attnpool,) if self.pool_shortcut is None else (tower.attnpool, self.pool_shortcut)

    def feature_map(self, state: Tensor) -> Tensor:
        return state

    def inject(self, state: Tensor, update: Tensor) -> Tensor:
        return state + update

    def tail(self, state: Tensor) -> Tensor:
        pooled = self.tower.attnpool(state, keep_map=True)
        if self.pool_shortcut is not None:
            pooled = F.relu(pooled + self.pool_shortcut(state))
        return pooled

    def pool(self, state: Tensor) -> Tensor:
        """CLIP's own image feature (B, C') of the state after the last stage, in the space of sentences.

        The released code's ``pool_shortcut`` plays no part in it.

        Args:
            state: (B, C, H / 32, W / 32).
        """
        return self.tower.attnpool(state)
