"""CLIP's ResNet image encoder in stages (ETRIS, Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from torch import Tensor, nn
from torch.nn import functional as F

from mmetris.registry import MODELS

from ..clip import ArchLike, build_image_tower
from ..clip.encoder import ClipEncoder
from ..layers.folded_norm import conv_norm
from ..layers.position_embedding import PositionCache
from .staged import StagedImageEncoder, StageSpec, check_out_stages


@MODELS.register_module()
class CLIPResNet(StagedImageEncoder, ClipEncoder):
    """CLIP's ResNet; its four residual layers are the stages (ETRIS, Sec. 3.1).

    The tail is CLIP's attention pool with every position as a query, so that its result stays a map.

    Args:
        arch: ``'RN50'``, ``'RN101'``, ``'RN50x4'``, ``'RN50x16'``, or sizes, see
            :func:`mmetris.models.clip.resolve_arch`.
        out_stages: Stages (1-based) that take part in Bridger and decoder. Defaults to ``(2, 3, 4)``: strides 8, 16,
            32.
        pool_mean_key: Whether the mean of the map, which is CLIP's pooling query, stays a key of the attention pool.
            Defaults to True, as CLIP was trained; the released code leaves it out, and its position with it.
        pool_shortcut: Whether a 1x1 convolution with BatchNorm is added around the pool, and a ReLU after it. It is
            in no CLIP, so its weights are random and, in a frozen encoder, stay so. Defaults to False; the released
            code has it, and the 120.74 M of the paper's "full tuning" (Table 2) count it.
        **kwargs: ``clip_checkpoint``, ``quick_gelu``, ``frozen``, ``tunable_parameters``, ``norm_eval`` of
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

    def __init__(
        self,
        arch: ArchLike = 'RN101',
        out_stages: Sequence[int] = (2, 3, 4),
        pool_mean_key: bool = True,
        pool_shortcut: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(arch, **kwargs)
        self.out_stages = check_out_stages(out_stages, self.num_stages)
        self.pool_mean_key = pool_mean_key
        layers = (self.tower.layer1, self.tower.layer2, self.tower.layer3, self.tower.layer4)
        self.stage_specs = tuple(
            StageSpec(layer[-1].conv3.out_channels, stride) for layer, stride in zip(layers, (4, 8, 16, 32))
        )
        self.tail_spec = StageSpec(self.arch.embed_dim, 32)
        self._positions = PositionCache()
        self.pool_shortcut = None
        if pool_shortcut:
            self.pool_shortcut = nn.Sequential(
                nn.Conv2d(self.stage_specs[-1].channels, self.arch.embed_dim, 1, bias=False),
                nn.BatchNorm2d(self.arch.embed_dim),
            )
            self.pool_shortcut.requires_grad_(not self.frozen)
            self.train()

    def build_tower(self) -> ModifiedResNet:
        if not self.arch.is_resnet:
            raise ValueError(f'CLIPResNet cannot be built from arch {self.arch.name!r}, which is a ViT; use CLIPViT')
        return build_image_tower(self.arch)

    def stem(self, images: Tensor) -> Tensor:
        self.check_size(images)
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
        return getattr(self.tower, f'layer{index}')(state)

    def feature_map(self, state: Tensor) -> Tensor:
        return state

    def inject(self, state: Tensor, update: Tensor) -> Tensor:
        return state + update

    def select(self, state: Tensor, index: Tensor) -> Tensor:
        return state[index]

    def pack(self, state: Tensor) -> dict[str, Tensor]:
        return dict(map=state)

    def unpack(self, tensors: dict[str, Tensor], image_hw: tuple[int, int]) -> Tensor:
        return self._laid_out(tensors['map'])

    def tail(self, state: Tensor) -> Tensor:
        pooled = self._attend_everywhere(self.tower.attnpool, state)
        if self.pool_shortcut is not None:
            pooled = F.relu(pooled + self.pool_shortcut(state))
        return pooled

    def _attend_everywhere(self, pool: AttentionPool2d, feature_map: Tensor) -> Tensor:
        """CLIP's attention pool, asked at every position: (B, C, H, W) -> (B, C', H, W)."""
        grid_hw = tuple(feature_map.shape[-2:])
        positions = self._positions.get(pool.positional_embedding, grid_hw).to(feature_map.dtype)
        queries = feature_map.flatten(2).transpose(1, 2) + positions[1:]
        keys = queries
        if self.pool_mean_key:
            mean = feature_map.mean(dim=(2, 3)).unsqueeze(1) + positions[:1]
            keys = torch.cat([mean, queries], dim=1)
        heads = pool.num_heads
        query, key, value = (
            projection(tokens).unflatten(2, (heads, -1)).transpose(1, 2)
            for projection, tokens in ((pool.q_proj, queries), (pool.k_proj, keys), (pool.v_proj, keys))
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return pool.c_proj(attended).transpose(1, 2).unflatten(2, grid_hw)
