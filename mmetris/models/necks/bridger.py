"""Bridger: exchange between two frozen encoders at every stage (ETRIS, Sec. 3.2).

    image:  stem -- stage 1 -- stage 2 -----+---- stage 3 -----+---- stage 4 -----+---- tail -> maps
                                  |         |        |         |        |         |
                               [Bridger stage 2]  [Bridger stage 3]  [Bridger stage 4]
                                  |         |        |         |        |         |
    text:  embed -- stage 1 -- stage 2 -----+---- stage 3 -----+---- stage 4 -----+---- tail -> words, sentence

Each Bridger stage also receives the state of the one before it. Axes: B sentences, L tokens, C an encoder's width, d
the Bridger's width, H W an encoder's grid, h w the Bridger's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmetris.registry import MODELS
from mmetris.structures import BridgedFeatures, map_tensors

from ..encoders import StagedImageEncoder, StagedTextEncoder, StageSpec
from ..layers.interactor import Interactor
from ..layers.zoom import ZoomLayer, match_grid
from .staged_neck import ImagePrefix, StagedNeck

MEMORY = ('output', 'sum')
CROSS_INPUTS = ('self_attended', 'input')


class BridgerMemory(NamedTuple):
    """State that one Bridger stage hands to the next.

    Args:
        image: (B, d, h, w).
        words: (B, L, d).
    """

    image: Tensor
    words: Tensor


class TextState(NamedTuple):
    """Where the text stands on its way past the Bridger.

    Args:
        words: (B, L, C) word features after text stage ``stage``.
        padding_mask: (B, L), True at padding.
        stage: The last text stage that has run.
        memory: State of the last Bridger stage, None before the first.
    """

    words: Tensor
    padding_mask: Tensor
    stage: int = 0
    memory: BridgerMemory | None = None


class BridgerStage(BaseModule):
    """The Bridger at one stage: zoom in, add the state, interact, zoom out (eq. (1) to (5)).

    Args:
        image_channels: Width of the image features at this stage.
        word_channels: Width of the word features.
        embed_dims: Width d of the Bridger.
        scale: The Bridger's grid over the image encoder's: 0.5, 1 or 2.
        is_first: Whether there is no state to add (no LayerNorm either).
        zoom_cfg: Further arguments of :class:`ZoomLayer`: ``kind``, ``with_norm``, ``grid_hw``.
        interactor_cfg: Further arguments of :class:`Interactor`.
        memory: What the next stage receives: ``'output'`` of the Interactors (default, eq. (2)), or the ``'sum'``
            that went into them.
        cross_inputs: What cross-attention reads of the other modality: its ``'self_attended'`` features (default, eq.
            (5)), or its ``'input'`` from before the self-attention.
        mask_padding: Whether attention leaves out padding. Defaults to True; then the result does not depend on how
            far a sentence was padded.
        update_words: Whether the words are updated as well. Defaults to True. False leaves out, in the last stage, what
            serves that only; its state is then no longer meant for a next stage.
        zero_init: Whether both updates start at zero, so that the encoders start as they are. Defaults to False.

    Raises:
        ValueError: If ``memory`` or ``cross_inputs`` is unknown, or a Zoom Layer with norm is to start at zero.
    """

    def __init__(
        self,
        image_channels: int,
        word_channels: int,
        embed_dims: int = 64,
        scale: float = 1,
        is_first: bool = True,
        zoom_cfg: dict | None = None,
        interactor_cfg: dict | None = None,
        memory: str = 'output',
        cross_inputs: str = 'self_attended',
        mask_padding: bool = True,
        update_words: bool = True,
        zero_init: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if memory not in MEMORY:
            raise ValueError(f'memory={memory!r} of the Bridger must be one of {MEMORY}')
        if cross_inputs not in CROSS_INPUTS:
            raise ValueError(f'cross_inputs={cross_inputs!r} of the Bridger must be one of {CROSS_INPUTS}')
        self.memory, self.cross_inputs, self.mask_padding = memory, cross_inputs, mask_padding
        zoom_cfg, interactor_cfg = dict(zoom_cfg or {}), dict(interactor_cfg or {})
        grid_hw = zoom_cfg.pop('grid_hw', None)
        zoomed_hw = None if grid_hw is None else (int(grid_hw[0] * scale), int(grid_hw[1] * scale))
        self.zoom_in = ZoomLayer(image_channels, embed_dims, scale, grid_hw=grid_hw, **zoom_cfg)
        self.zoom_out = ZoomLayer(embed_dims, image_channels, 1 / scale, grid_hw=zoomed_hw, **zoom_cfg)
        self.words_in = nn.Linear(word_channels, embed_dims)
        self.words_out = nn.Linear(embed_dims, word_channels) if update_words else None
        self.image_norm = None if is_first else nn.LayerNorm(embed_dims)
        self.words_norm = None if is_first else nn.LayerNorm(embed_dims)
        self.image_interactor = Interactor(embed_dims, **interactor_cfg)
        if not update_words:
            # The image reads the words up to here; whatever follows would be an unused parameter, which DDP refuses.
            read = interactor_cfg.get('self_attention', True) and cross_inputs == 'self_attended'
            interactor_cfg.update(self_attention=read, cross_attention=False, ffn_dims=None)
        self.words_interactor = Interactor(embed_dims, **interactor_cfg)
        if zero_init:
            self.zoom_out.zero_output()
            if self.words_out is not None:
                nn.init.zeros_(self.words_out.weight)
                nn.init.zeros_(self.words_out.bias)

    def forward(
        self,
        feature_map: Tensor,
        words: Tensor,
        memory: BridgerMemory | None = None,
        padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, BridgerMemory]:
        """Take one step.

        Args:
            feature_map: (B, C, H, W) image features of this stage.
            words: (B, L, C) word features of this stage.
            memory: State of the Bridger stage before, None at the first.
            padding_mask: (B, L), True at padding.

        Returns:
            The update of the image features (B, C, H, W), that of the word features (B, L, C) or None without
            ``update_words``, and the state for the next stage.
        """
        zoomed = self.zoom_in(feature_map)
        grid_hw = zoomed.shape[-2:]
        image, text = zoomed.flatten(2).transpose(1, 2), self.words_in(words)
        if memory is not None:
            assert self.image_norm is not None and self.words_norm is not None  # Only the first stage has none.
            image = self.image_norm(image + match_grid(memory.image, grid_hw).flatten(2).transpose(1, 2))
            text = self.words_norm(text + memory.words)
        out_image, out_text = self._interact(image, text, padding_mask if self.mask_padding else None)
        out_map = out_image.transpose(1, 2).unflatten(2, grid_hw)
        if self.memory == 'output':
            memory = BridgerMemory(out_map, out_text)
        else:
            memory = BridgerMemory(image.transpose(1, 2).unflatten(2, grid_hw), text)
        words_update = None if self.words_out is None else self.words_out(out_text)
        return self.zoom_out(out_map, out_hw=feature_map.shape[-2:]), words_update, memory

    def _interact(self, image: Tensor, text: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """eq. (5) on (B, h * w, d) and (B, L, d). Both sides read what the other was before the step."""
        image_seen, text_seen = image, text
        image = self.image_interactor.attend_self(image)
        text = self.words_interactor.attend_self(text, padding_mask)
        if self.cross_inputs == 'self_attended':
            image_seen, text_seen = image, text
        image = self.image_interactor.attend_other(image, text_seen, padding_mask)
        text = self.words_interactor.attend_other(text, image_seen)
        return self.image_interactor.feed_forward(image), self.words_interactor.feed_forward(text)


@MODELS.register_module()
class Bridger(StagedNeck):
    """All Bridger stages, and the walk of both encoders past them.

    It knows the encoders only by their contracts, :class:`StagedImageEncoder` and :class:`StagedTextEncoder`.

    Args:
        image_specs: :class:`StageSpec` (channels, stride) of the image stages in ``out_stages``. A
            :class:`ReferringSegmentor` fills it in.
        word_channels: Width of the word features. Filled in likewise.
        out_stages: The image encoder's stages that take part. Filled in likewise. Defaults to ``(2, 3, 4)``.
        stages: Stages that have a Bridger, a subset of ``out_stages``. Defaults to None: all of them. ``()`` is the
            model without Bridger.
        embed_dims: Width d. Defaults to 64, the best of Table 7.
        num_heads: Attention heads of the Interactors. Defaults to 8.
        ffn_dims: Hidden width of the Interactors' networks. Defaults to 128, for every d.
        dropout, attn_dropout: See :class:`Interactor`.
        scales: The Bridger's grid over the encoder's, for each of ``out_stages``. Defaults to None: what brings every
            stage to the stride in the middle (a ResNet's 8, 16, 32 -> 0.5, 1, 2). The paper's ViT, whose stages all
            have one stride, also uses (0.5, 1, 2).
        zoom_kind: ``kind`` of the Zoom Layers, Table 5. Defaults to ``'conv_deconv'``.
        zoom_norm: Whether BatchNorm and ReLU follow the Zoom Layers. Defaults to False; a ViT has them.
        input_hw: Input size in pixels, for the kinds of Zoom Layer that are tied to one.
        self_attention, combine: See :class:`Interactor`.
        memory, cross_inputs, mask_padding, zero_init: See :class:`BridgerStage`.
        update_last_words: Whether the last Bridger updates the words too. Defaults to True; False where nothing reads
            the text afterwards (:class:`BridgedBackbone`).

    Raises:
        ValueError: If ``stages`` is no subset of ``out_stages``, ``scales`` has another length, or a stride is no
            half, whole or double of the middle one.
    """

    def __init__(
        self,
        image_specs: Sequence[StageSpec],
        word_channels: int,
        out_stages: Sequence[int] = (2, 3, 4),
        stages: Sequence[int] | None = None,
        embed_dims: int = 64,
        num_heads: int = 8,
        ffn_dims: int | None = 128,
        dropout: float = 0.1,
        attn_dropout: float | None = None,
        scales: Sequence[float] | None = None,
        zoom_kind: str = 'conv_deconv',
        zoom_norm: bool = False,
        input_hw: tuple[int, int] | None = None,
        self_attention: bool = True,
        combine: str = 'add',
        memory: str = 'output',
        cross_inputs: str = 'self_attended',
        mask_padding: bool = True,
        zero_init: bool = False,
        update_last_words: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.out_stages = tuple(out_stages)
        self.stages = self.out_stages if stages is None else tuple(stages)
        if not set(self.stages) <= set(self.out_stages):
            raise ValueError(
                f'stages={self.stages} of the Bridger must be among the out_stages {self.out_stages} of the '
                'image encoder'
            )
        specs = [StageSpec(*spec) for spec in image_specs]
        scales = self._default_scales(specs) if scales is None else tuple(scales)
        if not len(scales) == len(specs) == len(self.out_stages):
            raise ValueError(
                f'scales={scales} and image_specs={specs} need one entry for each of out_stages={self.out_stages}'
            )
        self.bridges = nn.ModuleDict()
        for stage, spec, scale in zip(self.out_stages, specs, scales):
            if stage not in self.stages:
                continue
            grid_hw = None if input_hw is None else tuple(size // spec.stride for size in input_hw)
            self.bridges[str(stage)] = BridgerStage(
                spec.channels,
                word_channels,
                embed_dims,
                scale,
                is_first=not self.bridges,
                zoom_cfg=dict(kind=zoom_kind, with_norm=zoom_norm, grid_hw=grid_hw),
                interactor_cfg=dict(
                    num_heads=num_heads,
                    ffn_dims=ffn_dims,
                    self_attention=self_attention,
                    combine=combine,
                    dropout=dropout,
                    attn_dropout=attn_dropout,
                ),
                memory=memory,
                cross_inputs=cross_inputs,
                mask_padding=mask_padding,
                update_words=update_last_words or stage != max(self.stages),
                zero_init=zero_init,
            )

    @staticmethod
    def _default_scales(specs: Sequence[StageSpec]) -> tuple[float, ...]:
        strides = [spec.stride for spec in specs]
        middle = sorted(strides)[len(strides) // 2]
        scales = tuple(stride / middle for stride in strides)
        if not set(scales) <= {0.5, 1, 2}:
            raise ValueError(f'strides {strides} cannot all be brought to {middle} by halving or doubling; give scales')
        return scales

    def prefix_stage(self, image_encoder: StagedImageEncoder) -> int:
        """The last stage that :meth:`image_prefix` runs: that of the first Bridger, without any the encoder's last."""
        return min(self.stages, default=image_encoder.out_stages[-1])

    def reads_text(self, image_encoder: StagedImageEncoder) -> bool:
        """Whether there is a Bridger at all."""
        return bool(self.stages)

    def before_bridges(
        self, image_encoder: StagedImageEncoder, text_encoder: StagedTextEncoder, state: Any, tokens: Tensor
    ) -> Any:
        """The image encoder's state, one row for each sentence, as it goes on after the prefix; here as it is.

        Args:
            image_encoder: Image encoder in stages.
            text_encoder: Text encoder in stages, of which nothing has run.
            state: The state after the prefix.
            tokens: (B, L) token ids.
        """
        return state

    @staticmethod
    def start_text(text_encoder: StagedTextEncoder, tokens: Tensor) -> TextState:
        """Tokens (B, L) before the first text stage."""
        return TextState(text_encoder.embed(tokens), text_encoder.padding_mask(tokens))

    @staticmethod
    def run_text(text_encoder: StagedTextEncoder, text: TextState, stage: int) -> TextState:
        """Run the text encoder's stages up to ``stage`` (1-based, inclusive)."""
        words = text.words
        for index in range(text.stage + 1, stage + 1):
            words = text_encoder.stage(index, words)
        return TextState(words, text.padding_mask, stage, text.memory)  # Older compilers know no `_replace`.

    def step(self, stage: int, feature_map: Tensor, text: TextState) -> tuple[Tensor, TextState]:
        """One Bridger's step between the two encoders.

        Args:
            stage: Which of ``stages``.
            feature_map: (B, C, H, W) image features of this stage.
            text: Words after the text stage that belongs to it.

        Returns:
            The update of the image features (B, C, H, W), and the text, updated.
        """
        image_update, words_update, memory = self.bridges[str(stage)](
            feature_map, text.words, text.memory, text.padding_mask
        )
        words = text.words if words_update is None else text.words + words_update
        return image_update, TextState(words, text.padding_mask, text.stage, memory)

    def forward(
        self,
        image_encoder: StagedImageEncoder,
        text_encoder: StagedTextEncoder,
        images: Tensor | ImagePrefix,
        tokens: Tensor,
        image_index: Tensor | None = None,
    ) -> BridgedFeatures:
        """Run both encoders, bridged; see :meth:`StagedNeck.forward`. What precedes the first Bridger is computed once
        for each image."""
        self._check_rows(images, tokens, image_index)
        prefix = self.image_prefix(image_encoder, images)
        image, image_done, maps = prefix.state, prefix.stage, list(prefix.maps)
        if image_index is not None:
            maps = [feature_map[image_index] for feature_map in maps]
            if self.reads_text(image_encoder):
                # From here on the image's features depend on the sentence.
                image = map_tensors(lambda tensor: tensor[image_index], image)
        image = self.before_bridges(image_encoder, text_encoder, image, tokens)
        text = self.start_text(text_encoder, tokens)
        for stage, text_stage in zip(image_encoder.out_stages, text_encoder.out_stages, strict=True):
            text = self.run_text(text_encoder, text, text_stage)
            if stage < image_done or (stage == image_done and stage not in self.stages):
                continue  # Its map is in the prefix.
            for index in range(image_done + 1, stage + 1):
                image = image_encoder.stage(index, image)
            image_done = stage
            if stage in self.stages:
                image_update, text = self.step(stage, image_encoder.feature_map(image), text)
                image = image_encoder.inject(image, image_update)
            maps.append(self._map_of(image_encoder, image, stage))
        words, sentence = text_encoder.tail(text.words, tokens)
        return BridgedFeatures(tuple(maps), words, sentence, text.padding_mask)
