"""The model: mmetris's trunk, and a head that makes boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmseg.structures import SegDataSample
from torch import Tensor

from mmetris.models import BridgedModel
from mmetris.models.decode_heads import NoTargetRule
from mmetris.models.necks import ImagePrefix
from mmetris.registry import MODELS
from mmetris.utils.autocast import autocast_to

from .boxes import Answers


@MODELS.register_module()
class ReferringGrounder(BridgedModel):
    """An image, a sentence, boxes.

    Args:
        backbone: Config of the image encoder.
        text_encoder: Config of the text encoder.
        neck: Config of the Bridger.
        box_head: Config of the :class:`PooledBoxHead` or :class:`TransformerBoxHead`.
        **kwargs: The other arguments of :class:`~mmetris.models.BridgedModel`. ``test_cfg.box_threshold`` is the score
            from which on the inferencer gives a box, where sentences may mean nothing or several objects; without it,
            the best box of each sentence. ``test_cfg.no_target`` is a rule for "not in the picture" by the mask, as of
            a :class:`~mmetris.models.ReferringSegmentor`; of a model without masks it is refused.

    Attributes:
        gives_boxes: True: samples have ``pred_instances``.

    Raises:
        ValueError: If ``box_threshold`` is not between 0 and 1, or the rule is none for this model.
    """

    head_name = 'box_head'
    gives_boxes = True
    test_options = BridgedModel.test_options | {'no_target', 'box_threshold'}

    def __init__(
        self, backbone: Mapping, text_encoder: Mapping, neck: Mapping, box_head: Mapping, **kwargs: Any
    ) -> None:
        super().__init__(backbone, text_encoder, neck, **kwargs)
        self.box_head = self.build_head(box_head)
        threshold = self.test_cfg.get('box_threshold')
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f'test_cfg.box_threshold={threshold} must be between 0 and 1')
        self.box_head.no_target_rule(self.test_cfg)  # Now rather than after the first epoch.

    @property
    def mask_threshold(self) -> float | None:
        """Probability above which a pixel belongs to the mask; None of a model of boxes alone."""
        return self.box_head.decoder.threshold if self.box_head.with_mask else None

    @property
    def no_target_rule(self) -> NoTargetRule | None:
        """How "not in the picture" is decided; None where it is not."""
        return self.box_head.no_target_rule(self.test_cfg)

    def forward_answers(
        self, images: Tensor | ImagePrefix, tokens: Tensor, image_index: Tensor | None = None
    ) -> Answers:
        """Boxes, their scores and mask logits as tensors.

        Args:
            images: (B, 3, H, W) normalised images, or (I, 3, H, W) distinct ones with ``image_index``; or what
                :meth:`encode_images` made of them.
            tokens: (B, L) token ids.
            image_index: (B,) row of ``images`` that each sentence speaks of. Defaults to None: sentence b speaks of
                image b.
        """
        with autocast_to(self.test_cfg.get('dtype'), tokens.device.type):
            return self.box_head.answer(self.bridge(images, tokens, image_index), self.test_cfg)

    def postprocess_result(
        self,
        seg_logits: Tensor | None,
        data_samples: Sequence[SegDataSample] | None,
        input_hw: tuple[int, int],
        no_target_scores: Tensor | None,
        boxes: Tensor,
        box_scores: Tensor,
    ) -> list[SegDataSample]:
        """Complete samples by what :meth:`forward_answers` gave, which is the arguments but for the second and third.

        Args:
            seg_logits: (B, 1, h, w), or None.
            data_samples: One for each row, completed in place. None: new ones, for the network's input.
            input_hw: Size of the network's input.
            no_target_scores: (B,), or None.
            boxes: (B, Q, 4).
            box_scores: (B, Q).
        """
        answers = Answers(seg_logits, no_target_scores, boxes, box_scores)
        return self.box_head.predict_by_feat(answers, data_samples, input_hw, self.test_cfg)
