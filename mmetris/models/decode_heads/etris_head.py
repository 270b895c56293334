"""ETRIS's alignment decoder: hierarchical alignment, global alignment, projector (ETRIS, Sec. 3.3 and Fig. 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, cast

import torch
from mmengine.model import BaseModule
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmetris.registry import MODELS
from mmetris.structures import BridgedFeatures
from mmetris.utils.autocast import autocast_to, is_lowered

from ..layers.conv_norm import BATCH_NORM, MapProjection
from ..losses.text_to_pixel_contrastive import resize_target
from .global_alignment import GlobalAlignment
from .hierarchical_alignment import HierarchicalAlignment, check_heads, check_maps
from .mask_prediction import empty_without_target, predict_masks
from .no_target import NoTargetHead, NoTargetRule, mask_score, read_no_target_rule
from .projector import DotProductProjector, Projector

NO_OPTIONS: Mapping = MappingProxyType({})
IGNORE_INDEX = 255


@MODELS.register_module()
class ETRISHead(BaseModule):
    """Mask logits from bridged features (ETRIS, Sec. 3.3).

    ::

        maps, sentence --> HierarchicalAlignment --> GlobalAlignment --> Projector --> logits
                                                     ^ words              ^ sentence

    Each of the three parts is a dict of options that differ from the part's defaults; ``dict()`` is the part as the
    paper has it, and ``type`` exchanges it. The head fills in widths, heads, stride and normalisation. A part that is
    None is left out:

    - without hierarchical alignment the last map, projected to the decoder's width and stride, takes its place;
    - without global alignment the map goes on as it is;
    - without projector the logits are the scaled dot product of each pixel with the projected sentence, at ``stride``.

    Where the features hold K class names for each image instead of one sentence (``sentence`` is ``(B, K, C')``), the
    same weights give K logits: the names are keys of both alignments, and each has its own kernel in the projector.

    Args:
        in_channels: Widths of the maps, first stage first. The segmentor fills in this and the next three from its
            encoders.
        in_strides: Strides of the maps in input pixels.
        word_channels: Width of the word features.
        sentence_channels: Width of the sentence feature.
        channels: Width D of the decoder. Defaults to 512, as in the paper.
        num_heads: Heads of every attention. Defaults to 8, as in the paper.
        stride: Stride of the decoder in input pixels, or ``'auto'``: that of the middle map (16 for ResNet, the patch
            size for ViT), of two middle ones the finer. Defaults to ``'auto'``.
        hierarchical_alignment: Options of :class:`HierarchicalAlignment`, or ``dict(type='CRISFPN')``, with
            ``text_projection=False``. None: left out.
        global_alignment: Options of :class:`GlobalAlignment`. None: left out.
        projector: Options of :class:`Projector`. None: left out.
        text_projection: Whether a linear layer brings the sentence feature to ``channels`` before hierarchical
            alignment; the projector reads the feature itself, so nothing is built where that part is left out. Defaults
            to ``'auto'``: where the widths differ, as in the paper; the released code always has it.
        loss_decode: One loss or several, called as ``loss(logits, target, ignore_index=255)``; both are
            ``(B, 1, h, w)``, the target integer and in {0, 1, 255}. Of MMSeg's losses, DiceLoss, FocalLoss and the
            binary LovaszLoss read these shapes; the first two do not ignore 255, so they suit masks without it.
            Defaults to None: :class:`~mmetris.models.losses.TextToPixelContrastiveLoss`.
        threshold: Probability above which a pixel belongs to the mask. Defaults to 0.35, as in the released code.
        align_corners: Corner rule of bilinear resizing, in the projector and of the logits. Defaults to False.
        norm_cfg: Normalisation after each convolution, e.g. ``dict(type='SyncBN')``. Defaults to batch normalisation.
        no_target_head: Options of a :class:`NoTargetHead`, for data whose sentences may mean nothing in the picture; it
            reads the aligned map. Defaults to None: every sentence gets a mask.
        init_cfg: Initial weights, see MMEngine. Defaults to None: those of torch's layers.

    Attributes:
        num_classes: 2, background and target, as MMSeg counts for a single logit.
        out_channels: 1, the channels of the logits.
        out_stride: Stride of the logits in input pixels.

    Raises:
        ValueError: If ``in_channels`` and ``in_strides`` do not match, ``channels`` is no multiple of ``num_heads`` or
            ``text_projection`` is none of ``'auto'``, True and False; the parts check what they are given.
    """

    num_classes = 2
    out_channels = 1

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        word_channels: int,
        sentence_channels: int,
        channels: int = 512,
        num_heads: int = 8,
        stride: int | Literal['auto'] = 'auto',
        hierarchical_alignment: Mapping | None = NO_OPTIONS,
        global_alignment: Mapping | None = NO_OPTIONS,
        projector: Mapping | None = NO_OPTIONS,
        text_projection: bool | str = 'auto',
        loss_decode: Mapping | Sequence[Mapping] | None = None,
        threshold: float = 0.35,
        align_corners: bool = False,
        norm_cfg: Mapping = BATCH_NORM,
        no_target_head: Mapping | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_maps(in_channels, in_strides)
        check_heads(channels, num_heads)
        if text_projection not in ('auto', True, False):
            raise ValueError(f"text_projection must be 'auto', True or False, but it is {text_projection!r}")
        self.in_channels = tuple(in_channels)
        self.in_strides = tuple(in_strides)
        self.channels = channels
        self.stride = sorted(in_strides)[(len(in_strides) - 1) // 2] if stride == 'auto' else stride
        self.threshold = threshold
        self.align_corners = align_corners

        self.text_projection: nn.Module | None = None
        self.hierarchical_alignment: nn.Module | None = None
        self.map_projection: nn.Module | None = None
        self.global_alignment: nn.Module | None = None
        if hierarchical_alignment is not None:
            guide_channels = sentence_channels
            if text_projection is True or (text_projection == 'auto' and sentence_channels != channels):
                self.text_projection = nn.Linear(sentence_channels, channels)
                guide_channels = channels
            self.hierarchical_alignment = MODELS.build(
                dict(
                    dict(
                        type=HierarchicalAlignment,
                        in_channels=self.in_channels,
                        in_strides=self.in_strides,
                        sentence_channels=guide_channels,
                        channels=channels,
                        num_heads=num_heads,
                        stride=self.stride,
                        norm_cfg=norm_cfg,
                    ),
                    **hierarchical_alignment,
                )
            )
        else:
            self.map_projection = MapProjection(in_channels[-1], channels, in_strides[-1], self.stride, norm_cfg)
        if global_alignment is not None:
            self.global_alignment = MODELS.build(
                dict(
                    dict(type=GlobalAlignment, word_channels=word_channels, channels=channels, num_heads=num_heads),
                    **global_alignment,
                )
            )
        if projector is not None:
            self.projector = MODELS.build(
                dict(
                    dict(
                        type=Projector,
                        sentence_channels=sentence_channels,
                        channels=channels,
                        align_corners=align_corners,
                        norm_cfg=norm_cfg,
                    ),
                    **projector,
                )
            )
        else:
            self.projector = DotProductProjector(sentence_channels, channels)
        self.out_stride = self.stride // self.projector.scale

        if loss_decode is None:
            loss_decode = dict(type='TextToPixelContrastiveLoss', ignore_index=IGNORE_INDEX)
        loss_cfgs = [loss_decode] if isinstance(loss_decode, Mapping) else loss_decode
        self.loss_decode = nn.ModuleList(MODELS.build(dict(cfg)) for cfg in loss_cfgs)
        # Last, so that the initial weights of all else are what they are without it.
        self.no_target_head: nn.Module | None = None
        if no_target_head is not None:
            self.no_target_head = MODELS.build(
                dict(
                    dict(type=NoTargetHead, map_channels=channels, sentence_channels=sentence_channels),
                    **no_target_head,
                )
            )

    def forward(self, features: BridgedFeatures, with_no_target: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits ``(B, 1, h, w)`` of the masks, at ``out_stride``, from the features of B (image, sentence) pairs; of
        B images and K class names ``(B, K, h, w)``.

        Args:
            features: Bridged features.
            with_no_target: Whether the no-target logits ``(B,)`` are returned beside. Defaults to False.

        Raises:
            ValueError: If the number of maps is not that of ``in_channels``.
        """
        if len(features.maps) != len(self.in_channels):
            raise ValueError(
                f'ETRISHead was built for {len(self.in_channels)} maps (in_channels={self.in_channels}), '
                f'but got {len(features.maps)}'
            )
        fused = self.align_hierarchically(features)
        aligned = self.align_globally(fused, features)
        logits = self.projector(aligned, features.sentence)
        if not with_no_target:
            return logits
        assert self.no_target_head is not None  # Who asks has looked.
        return logits, self.no_target_head(aligned, features.sentence, logits)

    def align_hierarchically(self, features: BridgedFeatures) -> Tensor:
        """Fused map ``(B, channels, H, W)`` at ``stride``: the first of the three steps of :meth:`forward`."""
        if self.hierarchical_alignment is None:
            assert self.map_projection is not None  # It takes the place of the alignment.
            return self.map_projection(features.maps[-1])
        sentence = features.sentence if self.text_projection is None else self.text_projection(features.sentence)
        return self.hierarchical_alignment(features.maps, sentence)

    def align_globally(self, fused: Tensor, features: BridgedFeatures) -> Tensor:
        """Aligned map ``(B, channels, H, W)`` from the fused one: the second step."""
        if self.global_alignment is None:
            return fused
        if features.sentence.dim() == 3:
            return self.global_alignment(fused, features.words, features.padding_mask, ordered=False)
        return self.global_alignment(fused, features.words, features.padding_mask)

    def loss(
        self, features: BridgedFeatures, batch_data_samples: Sequence[SegDataSample], train_cfg: dict | None = None
    ) -> dict[str, Tensor]:
        """Losses of B (image, sentence) pairs, and the IoU of the batch for the log.

        Args:
            features: Bridged features of the pairs.
            batch_data_samples: A SegDataSample for each pair. Its ``gt_sem_seg.data`` is ``(1, H, W)`` in
                {0, 1, 255}, with the size of the input.
            train_cfg: Unused; MMSeg's segmentors pass it.

        Returns:
            See :meth:`loss_by_feat`; and those of the :class:`NoTargetHead`, if there is one.
        """
        if self.no_target_head is None:
            return self.loss_by_feat(self(features), batch_data_samples)
        logits, no_target_logits = self(features, with_no_target=True)
        masks = torch.stack([sample.gt_sem_seg.data for sample in batch_data_samples])
        losses = self.loss_by_feat(logits, batch_data_samples)
        return losses | cast(NoTargetHead, self.no_target_head).loss(no_target_logits, masks)

    def loss_by_feat(self, logits: Tensor, batch_data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Losses of given logits.

        Args:
            logits: ``(B, 1, h, w)``.
            batch_data_samples: As for :meth:`loss`.

        Returns:
            Each loss under its name (the sum of those that share one), and ``iou``: intersection over union of the
            whole batch at the logits' size and at ``threshold``, in percent. It is for the log only and carries no
            gradient.
        """
        masks = torch.stack([sample.gt_sem_seg.data for sample in batch_data_samples])
        target = resize_target(masks.to(logits.device), logits.shape[-2:]).long()
        losses = self._losses(logits, target)
        losses['iou'] = batch_iou(logits.detach(), target, self.threshold)
        return losses

    def loss_by_labels(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of K classes, for a head that was asked about K names.

        Args:
            logits: ``(B, K, H, W)``.
            labels: ``(B, H, W)`` in 0..K - 1, and 255 where the class is unknown.

        Returns:
            Each loss under its name (the sum of those that share one), and ``acc_seg``, the share of right pixels in
            percent, for the log.
        """
        losses = self._losses(logits, labels)
        known = labels != IGNORE_INDEX
        right = (logits.argmax(dim=1) == labels) & known
        losses['acc_seg'] = 100.0 * right.sum() / known.sum().clamp(min=1)
        return losses

    def _losses(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for loss in self.loss_decode:
            value = loss(logits, target, ignore_index=IGNORE_INDEX)
            name = cast(str, loss.loss_name)
            losses[name] = losses[name] + value if name in losses else value
        return losses

    def predict(
        self,
        features: BridgedFeatures,
        batch_data_samples: Sequence[SegDataSample] | None,
        input_hw: tuple[int, int],
        test_cfg: Mapping = NO_OPTIONS,
    ) -> list[SegDataSample]:
        """Masks at the size of the original images.

        Args:
            features: Bridged features of B (image, sentence) pairs.
            batch_data_samples: One for each pair, with the meta information of its resizing; completed in place. None:
                new ones, with masks of the size of the input.
            input_hw: Size of the network's input.
            test_cfg: ``dtype``, ``corner_aligned`` and ``no_target``, see :class:`ReferringSegmentor`. Defaults to
                none.

        Returns:
            See :meth:`predict_by_feat`.
        """
        with autocast_to(test_cfg.get('dtype'), features.words.device.type):
            logits, no_target_scores = self.answer(features, test_cfg)
        return self.predict_by_feat(logits, batch_data_samples, input_hw, test_cfg, no_target_scores)

    def no_target_rule(self, test_cfg: Mapping = NO_OPTIONS) -> NoTargetRule | None:
        """How "not in the picture" is decided, see :func:`~mmetris.models.decode_heads.no_target.read_no_target_rule`;
        None where it is not.

        Args:
            test_cfg: ``no_target``. Defaults to none.
        """
        return read_no_target_rule(test_cfg.get('no_target'), cast('NoTargetHead | None', self.no_target_head))

    def answer(self, features: BridgedFeatures, test_cfg: Mapping = NO_OPTIONS) -> tuple[Tensor, Tensor | None]:
        """Mask logits and no-target scores.

        Args:
            features: Bridged features of B (image, sentence) pairs.
            test_cfg: ``dtype`` and ``no_target``, as for :meth:`predict`. Defaults to none.

        Returns:
            Logits ``(B, 1, h, w)``, float32 if ``dtype`` is less precise, and scores ``(B,)`` in 0..1; None where "not
            in the picture" is not decided.
        """
        rule = self.no_target_rule(test_cfg)
        no_target_logits: Tensor | None = None
        if rule is not None and rule.by == 'head':
            logits, no_target_logits = self(features, with_no_target=True)
        else:
            logits = self(features)
        if is_lowered(test_cfg.get('dtype')):
            logits = logits.float()
        if no_target_logits is not None:
            return logits, no_target_logits.float().sigmoid()
        return logits, None if rule is None else mask_score(rule.by, logits, self.threshold)

    def predict_by_feat(
        self,
        logits: Tensor,
        batch_data_samples: Sequence[SegDataSample] | None = None,
        input_hw: tuple[int, int] | None = None,
        test_cfg: Mapping = NO_OPTIONS,
        no_target_scores: Tensor | None = None,
    ) -> list[SegDataSample]:
        """Masks of given logits, by ``threshold``.

        Args:
            logits: ``(B, 1, h, w)``.
            batch_data_samples: As for :meth:`predict`. Defaults to None.
            input_hw: Size of the network's input. Defaults to None: that of the logits.
            test_cfg: ``corner_aligned``, see :func:`~mmetris.models.decode_heads.mask_prediction.at_input_size`, and
                ``no_target``. Defaults to none.
            no_target_scores: ``(B,)``, of :meth:`answer`. Defaults to None: none is emptied.

        Returns:
            The samples, with ``pred_sem_seg`` (1, H, W), 1 inside the mask, and ``seg_logits`` (1, H, W); and with
            scores also ``no_target_score``, ``pred_no_target`` and ``no_target_threshold``, see
            :class:`~mmetris.structures.RefDataSample`.
        """
        samples = predict_masks(
            logits,
            batch_data_samples,
            self.threshold,
            input_hw,
            corner_aligned=test_cfg.get('corner_aligned', False),
            align_corners=self.align_corners,
        )
        rule = None if no_target_scores is None else self.no_target_rule(test_cfg)
        if no_target_scores is not None and rule is not None:
            for sample, score in zip(samples, no_target_scores.tolist(), strict=True):
                empty_without_target(sample, score, rule.threshold)
        return samples


def batch_iou(logits: Tensor, target: Tensor, threshold: float) -> Tensor:
    """Intersection over union of all masks of a batch together.

    Args:
        logits: ``(B, 1, h, w)``.
        target: ``(B, 1, h, w)`` in {0, 1, 255}; 255 is not counted.
        threshold: Probability above which a pixel is predicted.

    Returns:
        Scalar in percent; 0 where both are empty.
    """
    predicted = (logits.sigmoid() > threshold) & (target != IGNORE_INDEX)
    wanted = target == 1
    union = (predicted | wanted).sum()
    return 100.0 * (predicted & wanted).sum() / union.clamp(min=1)
