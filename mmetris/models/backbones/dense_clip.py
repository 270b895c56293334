"""CLIP's image encoders with a last step that keeps every position apart, for use without training."""

from __future__ import annotations

from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor

from mmetris.registry import MODELS

from ..clip import ArchLike
from ..layers.attention import Attention
from ..layers.dense_attention import DENSE_ATTENTIONS, attend_densely, check_dense_attention, neighbour_bias
from ..layers.map_attention_pool import MapAttentionPool
from .clip_resnet import CLIPResNet
from .clip_vit import CLIPViT, TokenGrid


@MODELS.register_module()
class DenseCLIPViT(CLIPViT):
    """CLIP's ViT, frozen, whose last block attends in another way than CLIP was trained to.

    All blocks but the last are CLIP's. In the last one, with the tokens x and the ``attention`` A of
    :mod:`~mmetris.models.layers.dense_attention`,

        y = out_proj(A(ln_1(x)))            and where residual and FFN are kept   y <- x + y,   y <- y + mlp(ln_2(y))

    Final LayerNorm and projection follow as in CLIP, for every patch.

    Args:
        arch: See :class:`CLIPViT`. Defaults to ``'ViT-B-16'``.
        attention: ``'maskclip'``, ``'sclip'`` (default), ``'clearclip'`` or ``'naclip'``.
        keep_residual: Whether the last block's residual connection and feed-forward network stay. Defaults to None: as
            the attention was published, with them for MaskCLIP and SCLIP, without for ClearCLIP and NACLIP.
        neighbour_std: Standard deviation of NACLIP's Gaussian, in patches. Defaults to 5, as published.
        num_stages: See :class:`CLIPViT`; the last stage alone is an output. Defaults to 4.
        clip_checkpoint: Weights of CLIP. Defaults to None: random ones.
        quick_gelu: See :class:`ClipEncoder`. Defaults to None.

    Shape:
        (B, 3, H, W) -> one map (B, embed_dim, H / patch, W / patch).

    Raises:
        ValueError: If there is no such attention, ``neighbour_std`` is not positive, ``arch`` is no ViT, or the input
            is no multiple of the patch.
    """

    def __init__(
        self,
        arch: ArchLike = 'ViT-B-16',
        attention: str = 'sclip',
        keep_residual: bool | None = None,
        neighbour_std: float = 5.0,
        num_stages: int = 4,
        clip_checkpoint: str | None = None,
        quick_gelu: bool | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        check_dense_attention(attention)
        if not neighbour_std > 0:
            raise ValueError(f'neighbour_std={neighbour_std} must be positive: it is a width in patches')
        super().__init__(arch, num_stages, (num_stages,), clip_checkpoint, quick_gelu, init_cfg=init_cfg)
        self.attention, self.neighbour_std = attention, neighbour_std
        self.keep_residual = DENSE_ATTENTIONS[attention] if keep_residual is None else keep_residual

    def stage(self, index: int, state: TokenGrid) -> TokenGrid:
        if index < self.num_stages:
            return super().stage(index, state)
        tokens, blocks = state.tokens, self.tower.transformer.resblocks
        for block in self._stages[-1][:-1]:
            tokens = blocks[block](tokens)
        return TokenGrid(self._run_last(blocks[-1], tokens, state.grid_hw), state.grid_hw)

    def _run_last(self, block: ResidualAttentionBlock, tokens: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """The last block: (B, N, C) -> (B, N, C)."""
        attention: Attention = block.attn
        normalised = block.ln_1(tokens)
        bias = None
        if self.attention == 'naclip':
            bias = neighbour_bias(grid_hw, self.neighbour_std, self._num_before).to(tokens.device)
        query, key, value = attention.heads(normalised, normalised, normalised)
        attended = block.ls_1(attention.join(attend_densely(self.attention, query, key, value, bias)))
        if not self.keep_residual:
            return attended
        tokens = tokens + attended
        return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


@MODELS.register_module()
class DenseCLIPResNet(CLIPResNet):
    """CLIP's ResNet, frozen, whose attention pool is v_proj and c_proj alone, as 1x1 convolutions (MaskCLIP).

    Neither positions nor queries and keys of the pool are used, and there is no residual connection.

    Args:
        arch: See :class:`CLIPResNet`. Defaults to ``'RN50'``.
        attention: ``'maskclip'``. The others stand in a ViT's last block and are refused here.
        clip_checkpoint: Weights of CLIP. Defaults to None: random ones.
        quick_gelu: See :class:`ClipEncoder`. Defaults to None.

    Shape:
        (B, 3, H, W) -> one map (B, embed_dim, H / 32, W / 32).

    Raises:
        ValueError: If the attention is not for a ResNet, ``arch`` is none, or the input is no multiple of 32.
    """

    def __init__(
        self,
        arch: ArchLike = 'RN50',
        attention: str = 'maskclip',
        clip_checkpoint: str | None = None,
        quick_gelu: bool | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if check_dense_attention(attention) != 'maskclip':
            raise ValueError(
                f'attention={attention!r} is for a ViT (DenseCLIPViT), whose last block has patches to attend to: in '
                "the pool of a ResNet 'maskclip' is what there is"
            )
        only_last = (self.num_stages,)
        super().__init__(arch, only_last, clip_checkpoint=clip_checkpoint, quick_gelu=quick_gelu, init_cfg=init_cfg)
        self.attention = attention

    def tail(self, state: Tensor) -> Tensor:
        pool: MapAttentionPool = self.tower.attnpool
        return pool.values(state)
