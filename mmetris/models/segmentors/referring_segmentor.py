"""ETRIS as one of MMSeg's segmentors (Fig. 2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from mmengine.logging import MMLogger
from mmengine.structures import PixelData
from mmseg.models import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn import functional as F

from mmetris.registry import MODELS
from mmetris.utils.autocast import autocast_to, check_dtype, is_lowered
from mmetris.utils.letterbox import LetterboxGeometry, undo_letterbox

from ..layers.bridged_features import BridgedFeatures
from ..necks.bridger import ImagePrefix
from .prefix_cache import PrefixCache
from .sharing import distinct_images


@MODELS.register_module()
class ReferringSegmentor(BaseSegmentor):
    """An image, a sentence, one mask.

    Frozen image and text encoders run stage by stage with the Bridger (neck) between them; the decode head turns the
    bridged features into a mask. Widths and strides that follow from the encoders need not be repeated in the config
    of neck and head.

    Args:
        backbone: Config of the image encoder, e.g. :class:`CLIPViT`.
        text_encoder: Config of the text encoder, e.g. :class:`CLIPTextEncoder`.
        neck: Config of the :class:`Bridger`.
        decode_head: Config of the :class:`ETRISHead`.
        data_preprocessor: Config of the data preprocessor.
        train_cfg: Handed to the head's loss. ``share_images=True`` encodes an image that a training batch repeats once,
            as prediction always does: the same losses and gradients, unless BatchNorm statistics of the image encoder
            move (``norm_eval=False``), which then see each image once. Defaults to None: each row anew.
        context_length: Tokens, padding included, of sentences that arrive as text. It matters where padding is not
            masked, as in the released variant: there the length belongs to the model. Defaults to None: as long as the
            batch's longest sentence.
        prefix_cache: ``dir`` and ``max_gb`` of a :class:`PrefixCache`, which keeps on disk what the frozen image
            encoder computes before the first Bridger; training and evaluation read it from the second epoch on.
            Defaults to None: computed each time.
        test_cfg: ``mode`` is ``'whole'``: a sentence may speak of any place in the picture, so the picture is not cut
            in windows. ``dtype`` is what predictions are computed in, by autocast: ``'bfloat16'``, ``'float16'`` (GPUs
            only) or ``'float32'``, the default. Logits are float32 in any case, and training does not heed it.

    Raises:
        ValueError: If ``test_cfg`` asks for another mode or type, or encoders and Bridger do not fit together.
    """

    out_channels = 1  # MMSeg's test-time augmentation takes this as: sigmoid and threshold.

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        neck: dict,
        decode_head: dict,
        data_preprocessor: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        context_length: int | None = None,
        prefix_cache: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        test_cfg = dict(test_cfg or {})
        if (mode := test_cfg.get('mode', 'whole')) != 'whole':
            raise ValueError(f'test_cfg.mode={mode!r}: a ReferringSegmentor looks at whole images only')
        check_dtype(test_cfg.get('dtype'), 'test_cfg.dtype')
        self.train_cfg, self.test_cfg = train_cfg, test_cfg
        self.context_length = context_length
        self.prefix_cache = None if prefix_cache is None else PrefixCache(**prefix_cache)
        self.backbone = MODELS.build(backbone)
        self.text_encoder = MODELS.build(text_encoder)
        if len(self.backbone.out_stages) != len(self.text_encoder.out_stages):
            raise ValueError(
                f'backbone.out_stages={self.backbone.out_stages} and '
                f'text_encoder.out_stages={self.text_encoder.out_stages} '
                'must be equally many: the Bridger joins them one by one'
            )
        self.neck = MODELS.build(
            dict(
                image_specs=[self.backbone.stage_specs[stage - 1] for stage in self.backbone.out_stages],
                word_channels=self.text_encoder.embed_dims,
                out_stages=self.backbone.out_stages,
            )
            | dict(neck)
        )
        self.decode_head = MODELS.build(
            dict(
                in_channels=[spec.channels for spec in self.backbone.out_specs],
                in_strides=[spec.stride for spec in self.backbone.out_specs],
                word_channels=self.text_encoder.embed_dims,
                sentence_channels=self.text_encoder.output_dims,
            )
            | dict(decode_head)
        )

    def _dump_init_info(self) -> None:
        # MMEngine writes where each parameter's initial value came from to the log file; without one (a model built
        # outside of a runner) it would fill the screen instead.
        if any(isinstance(handler, logging.FileHandler) for handler in MMLogger.get_current_instance().handlers):
            super()._dump_init_info()

    @property
    def align_corners(self) -> bool:
        return self.decode_head.align_corners

    def encode_images(self, images: Tensor) -> ImagePrefix:
        """What can be computed of normalised images (I, 3, H, W) before a sentence is known.

        :meth:`forward_logits` takes the result instead of the images.
        """
        with autocast_to(self.test_cfg.get('dtype'), images.device.type):
            return self.neck.image_prefix(self.backbone, images)

    def extract_feat(
        self, inputs: Tensor | ImagePrefix, tokens: Tensor, image_index: Tensor | None = None
    ) -> BridgedFeatures:
        """Bridged features of images (B, 3, H, W) and tokens (B, L); see :meth:`Bridger.forward`."""
        if self.prefix_cache is not None and isinstance(inputs, Tensor) and not torch.compiler.is_compiling():
            inputs = self.prefix_cache.image_prefix(self.neck, self.backbone, inputs)
        return self.neck(self.backbone, self.text_encoder, inputs, tokens, image_index)

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
            logits = self.decode_head(self.extract_feat(images, tokens, image_index))
        return logits.float() if is_lowered(dtype) else logits

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            inputs: (B, 3, H, W) normalised images.
            data_samples: One for each image, with ``tokens`` or ``expression`` and ``gt_sem_seg``.
        """
        tokens, image_index = self.tokens_of(data_samples, inputs.device), None
        if (self.train_cfg or {}).get('share_images', False):
            inputs, image_index = distinct_images(inputs, data_samples)
        features = self.extract_feat(inputs, tokens, image_index)
        return self.decode_head.loss(features, data_samples, self.train_cfg)

    def predict(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> list[SegDataSample]:
        """Masks at the size of the original images.

        Args:
            inputs: (B, 3, H, W) normalised images.
            data_samples: One for each image, with ``tokens`` or ``expression``, and the meta information of their
                resizing.

        Returns:
            The samples with ``pred_sem_seg`` (1, H, W), 1 inside the mask, and ``seg_logits`` (1, H, W).
        """
        logits = self.encode_decode(inputs, data_samples)
        return self.postprocess_result(logits, data_samples, tuple(inputs.shape[-2:]))

    def _forward(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> Tensor:
        return self.encode_decode(inputs, data_samples)

    def encode_decode(self, inputs: Tensor, batch_data_samples: Sequence[SegDataSample] | None) -> Tensor:
        """Mask logits (B, 1, h, w) of images (B, 3, H, W) and the sentences of the samples.

        Sentences of one image, which follow each other in evaluation, share what precedes the first Bridger.
        """
        tokens = self.tokens_of(batch_data_samples, inputs.device)
        images, image_index = distinct_images(inputs, batch_data_samples)
        return self.forward_logits(images, tokens, image_index)

    def tokens_of(self, data_samples: Sequence[SegDataSample] | None, device: torch.device) -> Tensor:
        """Token ids (B, L) of the samples: their ``tokens``, or those of their ``expression`` where a pipeline did
        not tokenize.

        Raises:
            ValueError: If a sample has neither.
        """
        if data_samples is None:
            raise ValueError('a ReferringSegmentor needs data samples: they carry the sentences')
        if all('tokens' in sample for sample in data_samples):
            return torch.stack([sample.tokens for sample in data_samples]).to(device)
        missing = [sample for sample in data_samples if 'expression' not in sample.metainfo]
        if missing:
            raise ValueError(
                f'no sentence for {missing[0].metainfo.get("img_path", "an image")}: the pipeline must pack '
                '"expression" or '
                '"tokens" (mmetris.PackSegInputs does; MMSeg\'s own needs "expression" in its meta_keys)'
            )
        expressions = [sample.expression for sample in data_samples]
        if self.context_length is not None:
            return self.text_encoder.tokenizer(expressions, self.context_length).to(device)
        tokens = self.text_encoder.tokenizer(expressions, self.text_encoder.tower.context_length)
        return self.text_encoder.trim(tokens).to(device)

    def postprocess_result(
        self,
        seg_logits: Tensor,
        data_samples: Sequence[SegDataSample] | None = None,
        input_hw: tuple[int, int] | None = None,
    ) -> list[SegDataSample]:
        """Bring masks to the original images: sigmoid, undo padding, flip and resizing, then the head's threshold
        (Sec. 4.2).

        Args:
            seg_logits: (B, 1, h, w) logits.
            data_samples: One for each row, completed in place. Defaults to None: new ones, with masks of the size of
                the input.
            input_hw: Size of the network's input. Defaults to None: that of the logits.

        Returns:
            The samples, with ``pred_sem_seg`` (1, H, W) and ``seg_logits`` (1, H, W). Unlike MMSeg, which keeps
            probabilities under that name when there is one channel, these are logits: MMSeg's test-time augmentation
                applies the sigmoid itself.
        """
        probs = seg_logits.float().sigmoid()
        if input_hw is not None:
            probs = self._enlarge(probs, input_hw)
        if data_samples is None:
            data_samples = [SegDataSample() for _ in probs]
        for prob, sample in zip(probs, data_samples, strict=True):
            prob = self._undo_transforms(prob.unsqueeze(0), sample.metainfo).clamp(0, 1).squeeze(0)
            sample.seg_logits = PixelData(data=torch.logit(prob, eps=1e-6))
            sample.pred_sem_seg = PixelData(data=(prob > self.decode_head.threshold).to(torch.uint8))
        return list(data_samples)

    def _enlarge(self, probs: Tensor, input_hw: tuple[int, int], mode: str = 'bicubic') -> Tensor:
        """Probabilities (B, 1, h, w) at the size of the network's input; ``mode`` is that of the interpolation.

        The loss compares cell i with pixel i * stride ("nearest", text-to-pixel loss), so that is where its value
        belongs. With ``corner_aligned`` the outermost cells go to the outermost pixels instead: masks then drift by up
        to stride - 1 pixels towards the lower right, which small images feel.
        """
        if self.test_cfg.get('corner_aligned', False):
            return F.interpolate(probs, size=input_hw, mode=mode, align_corners=True)
        grid_hw = probs.shape[-2:]
        reached = [(cells - 1) * (size // cells) + 1 for cells, size in zip(grid_hw, input_hw)]
        probs = F.interpolate(probs, size=reached, mode=mode, align_corners=True)
        return F.pad(probs, (0, input_hw[1] - reached[1], 0, input_hw[0] - reached[0]), mode='replicate')

    def _undo_transforms(self, prob: Tensor, metainfo: dict) -> Tensor:
        """Map (1, 1, H, W) of the network's input -> map (1, 1, H', W') of the original image."""
        left, right, top, bottom = metainfo.get('img_padding_size', metainfo.get('padding_size', (0, 0, 0, 0)))
        height, width = prob.shape[-2:]
        prob = prob[..., top : height - bottom, left : width - right]
        if metainfo.get('flip'):
            prob = prob.flip(dict(horizontal=-1, vertical=-2, diagonal=(-1, -2))[metainfo['flip_direction']])
        if 'ori_shape' not in metainfo:
            return prob
        ori_hw = tuple(metainfo['ori_shape'][:2])
        if 'letterbox' in metainfo:
            return undo_letterbox(prob, LetterboxGeometry(*metainfo['letterbox']), tuple(prob.shape[-2:]), ori_hw)
        return F.interpolate(prob, size=ori_hw, mode='bilinear', align_corners=self.align_corners)
