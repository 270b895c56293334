"""ETRIS as one of MMSeg's segmentors (Fig. 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmseg.models import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor

from mmetris.registry import MODELS
from mmetris.structures import BridgedFeatures
from mmetris.utils.autocast import autocast_to, is_lowered

from ..decode_heads.etris_head import ETRISHead
from ..decode_heads.no_target import NoTargetRule
from ..necks import ImagePrefix
from ..trunk.bridged_model import BridgedModel
from ..trunk.sharing import distinct_images


@MODELS.register_module()
class ReferringSegmentor(BridgedModel, BaseSegmentor):
    """An image, a sentence, one mask: the trunk (:class:`BridgedModel`) and a head that makes masks.

    Args:
        backbone: Config of the image encoder, e.g. :class:`CLIPViT`.
        text_encoder: Config of the text encoder, e.g. :class:`CLIPTextEncoder`.
        neck: Config of the :class:`Bridger`.
        decode_head: Config of the :class:`ETRISHead`.
        **kwargs: ``dual_encoder``, ``data_preprocessor``, ``context_length``, ``prefix_cache``, ``train_cfg``,
            ``test_cfg`` and ``init_cfg`` of :class:`BridgedModel`. ``test_cfg.mode`` is ``'whole'``: a sentence may
            speak of any place in the picture, so the picture is not cut in windows. ``test_cfg.no_target`` is how "not
            in the picture" is decided, ``dict(by='head', threshold=0.5)``: by a :class:`NoTargetHead` or, in models
            without one, by the mask's probabilities, see
            :func:`~mmetris.models.decode_heads.no_target.read_no_target_rule`. By default a head decides, and without
            one nothing does; False leaves a head unasked.

    Raises:
        ValueError: If ``test_cfg`` asks for another mode or type or for a rule that there is not, or encoders and
            Bridger do not fit together.
    """

    decode_head: ETRISHead
    test_options = BridgedModel.test_options | {'no_target'}
    out_channels = 1  # MMSeg's test-time augmentation takes this as: sigmoid and threshold.

    def __init__(
        self, backbone: Mapping, text_encoder: Mapping, neck: Mapping, decode_head: Mapping, **kwargs: Any
    ) -> None:
        if (mode := (kwargs.get('test_cfg') or {}).get('mode', 'whole')) != 'whole':
            raise ValueError(f'test_cfg.mode={mode!r}: a ReferringSegmentor looks at whole images only')
        super().__init__(backbone, text_encoder, neck, **kwargs)
        self.decode_head = self.build_head(decode_head)
        self.decode_head.no_target_rule(self.test_cfg)  # Now rather than after the first epoch.

    @property
    def no_target_rule(self) -> NoTargetRule | None:
        """How "not in the picture" is decided; None where it is not."""
        return self.decode_head.no_target_rule(self.test_cfg)

    @property
    def align_corners(self) -> bool:
        """Corner rule of the head's resizing."""
        return self.decode_head.align_corners

    def extract_feat(
        self, inputs: Tensor | ImagePrefix, tokens: Tensor, image_index: Tensor | None = None
    ) -> BridgedFeatures:
        """MMSeg's name for :meth:`BridgedModel.bridge`.

        Args:
            inputs: (B, 3, H, W) normalised images, or what :meth:`encode_images` made of them.
            tokens: (B, L) token ids.
            image_index: (B,) row of ``inputs`` that each sentence speaks of. Defaults to None: sentence b speaks of
                image b.
        """
        return self.bridge(inputs, tokens, image_index)

    def forward_logits(self, images: Tensor | ImagePrefix, tokens: Tensor, image_index: Tensor | None = None) -> Tensor:
        """Mask logits.

        Args:
            images: (B, 3, H, W) normalised RGB images, or (I, 3, H, W) distinct ones with ``image_index``; or what
                :meth:`encode_images` made of them.
            tokens: (B, L) token ids, see :func:`mmetris.tokenize`.
            image_index: (B,) row of ``images`` that each sentence speaks of. Defaults to None: sentence b speaks of
                image b.

        Returns:
            (B, 1, H / 4, W / 4) logits (a quarter of the decoder's stride, which is 16 for the published models).

        Raises:
            ValueError: If ``test_cfg.dtype`` is float16, on a CPU.
        """
        dtype = self.test_cfg.get('dtype')
        with autocast_to(dtype, tokens.device.type):
            logits = self.decode_head(self.bridge(images, tokens, image_index))
        return logits.float() if is_lowered(dtype) else logits

    def forward_answers(
        self, images: Tensor | ImagePrefix, tokens: Tensor, image_index: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Mask logits, and no-target scores where "not in the picture" is decided.

        Args:
            images: See :meth:`forward_logits`.
            tokens: See there.
            image_index: See there. Defaults to None.

        Returns:
            The logits of :meth:`forward_logits`, and (B,) scores in 0..1 or None.
        """
        if self.no_target_rule is None:
            return self.forward_logits(images, tokens, image_index), None
        with autocast_to(self.test_cfg.get('dtype'), tokens.device.type):
            return self.decode_head.answer(self.bridge(images, tokens, image_index), self.test_cfg)

    def encode_decode(self, inputs: Tensor, batch_data_samples: Sequence[SegDataSample] | None) -> Tensor:
        """Mask logits (B, 1, h, w) of images (B, 3, H, W) and the sentences of the samples."""
        tokens = self.tokens_of(batch_data_samples, inputs.device)
        assert batch_data_samples is not None  # Their tokens were just read.
        images, image_index = distinct_images(inputs, batch_data_samples)
        return self.forward_logits(images, tokens, image_index)

    def _forward(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> Tensor:
        if data_samples is None:
            return self.forward_logits(inputs, self.tokens_to_count(inputs))
        return self.encode_decode(inputs, data_samples)

    def postprocess_result(
        self,
        seg_logits: Tensor,
        data_samples: Sequence[SegDataSample] | None = None,
        input_hw: tuple[int, int] | None = None,
        no_target_scores: Tensor | None = None,
    ) -> list[SegDataSample]:
        """MMSeg's name for the head's :meth:`ETRISHead.predict_by_feat`.

        Args:
            seg_logits: (B, 1, h, w) logits.
            data_samples: One for each row, completed in place. Defaults to None: new ones, with masks of the size of
                the input.
            input_hw: Size of the network's input. Defaults to None: that of the logits.
            no_target_scores: (B,), of :meth:`forward_answers`. Defaults to None: no mask is emptied.
        """
        return self.decode_head.predict_by_feat(seg_logits, data_samples, input_hw, self.test_cfg, no_target_scores)
