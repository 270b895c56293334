"""Semantic segmentation by the names of the classes, with ETRIS's parts.

    'joint'      image, K names as one text   ->  one pass of Bridger and decoder, one dynamic kernel for each name
    'per_class'  image, each name a sentence  ->  a ReferringSegmentor asked K times, but what precedes the text once

Axes: B images, K classes, M names (a class may have several), T templates, P prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmseg.models import EncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmetris.registry import MODELS
from mmetris.structures import BridgedFeatures, Vocabulary
from mmetris.utils.autocast import autocast_to, is_lowered
from mmetris.utils.config_types import is_kind_of, type_name
from mmetris.utils.shapes import hw_of

from ..decode_heads.etris_head import ETRISHead
from ..decode_heads.mask_prediction import at_input_size
from ..necks import ImagePrefix
from ..text_encoders.class_text import ClassText
from ..trunk.bridged_model import BridgedModel

TEXT_MODES = ('joint', 'per_class')
TEST_MODES = ('whole', 'slide')
IGNORE_INDEX = 255
DEFAULT_LOSS = dict(type='CrossEntropyLoss', avg_non_ignore=True)


@MODELS.register_module()
class ClassNameSegmentor(EncoderDecoder, BridgedModel):
    """An image, a list of class names, a class for each pixel.

    It has the trunk (:class:`BridgedModel`), parts and weights of a :class:`ReferringSegmentor`, whose checkpoints it
    loads, and the interface of MMSeg's :class:`EncoderDecoder`: whole and sliding inference, MMSeg's postprocessing,
    metrics and test-time augmentation.

    Args:
        vocabulary: Arguments of :meth:`Vocabulary.build`: ``dict(classes='ade20k', templates='vild')``. A class is the
            maximum over its names, which in mode ``'per_class'`` are means over the templates (:class:`ClassText` has
            the means of mode ``'joint'``).
        text_encoder: Config of a :class:`ClassText`, which gets the vocabulary.
        decode_head: Config of the :class:`ETRISHead`. Its ``loss_decode`` are losses over classes, called as MMSeg does
            with (B, K, h, w) logits and (B, h, w) labels, e.g. :class:`ClassMaskContrastiveLoss`; none given: MMSeg's
            cross-entropy.
        text_mode: ``'joint'`` (default) or ``'per_class'``, see above. Weights fit both, but are good at what they were
            trained for: those trained on referring expressions belong to ``'per_class'``.
        chunk_size: Pairs of image and prompt that mode ``'per_class'`` computes at once. Defaults to 16.
        max_train_classes: In training, classes that the batch does not contain are drawn at random up to so many
            classes in all. Defaults to None: all classes take part.
        held_out: First names of classes that training never sees: they are not among the negatives, and their pixels
            are ignored. For zero-shot experiments; tests use the whole vocabulary.
        test_cfg: MMSeg's: ``dict(mode='whole')``, the default, or ``dict(mode='slide', crop_size=..., stride=...)``
            with sides that suit the encoder (multiples of the data preprocessor's ``size_divisor``). And ``dtype``, see
            :class:`ReferringSegmentor`; what a frozen :class:`ClassText` keeps of the names stays float32.
        **kwargs: ``backbone``, ``neck`` and the other arguments of :class:`ReferringSegmentor`.

    Attributes:
        head_defaults: Of ``decode_head``.
        background_logit: What the name of a class must exceed where the vocabulary has a background; the background's
            logit itself is 0. Learnt, and 0 at first: half a probability, for models trained on masks.

    Raises:
        ValueError: If vocabulary, mode, type, sizes or ``held_out`` make no sense.
    """

    # `no_target` has a message of its own.
    test_options = BridgedModel.test_options | {'crop_size', 'stride', 'no_target'}
    head_defaults: Mapping = MappingProxyType(dict(loss_decode=DEFAULT_LOSS))
    decode_head: ETRISHead
    text_encoder: ClassText

    def __init__(
        self,
        vocabulary: Mapping | Vocabulary,
        text_encoder: Mapping,
        decode_head: Mapping,
        text_mode: str = 'joint',
        chunk_size: int = 16,
        max_train_classes: int | None = None,
        held_out: Sequence[str] = (),
        test_cfg: Mapping | None = None,
        **kwargs: Any,
    ) -> None:
        if not is_kind_of(text_encoder, ClassText, MODELS):
            raise ValueError(f'text_encoder.type={type_name(text_encoder)!r}: class names need a ClassText')
        if kwargs.get('prefix_cache') is not None:
            raise ValueError(
                'prefix_cache is for a ReferringSegmentor: images with labels are cropped at random, so '
                'that none repeats'
            )
        options = ConfigDict(dict(mode='whole') | dict(test_cfg or {}))
        if options.mode not in TEST_MODES:
            raise ValueError(f'test_cfg.mode={options.mode!r} must be one of {TEST_MODES}')
        if options.mode == 'slide' and not {'crop_size', 'stride'} <= set(options):
            raise ValueError(f'test_cfg={dict(options)} needs crop_size and stride, (H, W) each, to slide')
        # Not MMSeg's constructor, which knows no text: its encoders, Bridger and head are those of the trunk.
        text_encoder = dict(text_encoder, vocabulary=vocabulary)
        BridgedModel.__init__(self, text_encoder=text_encoder, test_cfg=options, **kwargs)
        self.test_cfg = options
        self.decode_head = self.build_head(dict(self.head_defaults) | dict(decode_head))
        if self.decode_head.no_target_head is not None or options.get('no_target') is not None:
            raise ValueError(
                'decode_head.no_target_head and test_cfg.no_target are for a ReferringSegmentor: a class that is not '
                'in the picture has no pixels anyway'
            )
        if text_mode not in TEXT_MODES:
            raise ValueError(f'text_mode={text_mode!r} must be one of {TEXT_MODES}')
        if chunk_size < 1:
            raise ValueError(f'chunk_size={chunk_size} must be at least 1')
        if max_train_classes is not None and max_train_classes < 2:
            raise ValueError(f'max_train_classes={max_train_classes} must be at least 2, or None')
        if unknown := set(held_out) - set(self.vocabulary.class_names):
            raise ValueError(f'held_out={sorted(unknown)} are no classes of the vocabulary')
        if len(self.vocabulary) - len(set(held_out)) < 2:
            raise ValueError(f'held_out={sorted(held_out)} leaves fewer than two classes to train on')
        self.text_mode, self.chunk_size = text_mode, chunk_size
        self.max_train_classes, self.held_out = max_train_classes, frozenset(held_out)
        has_background = self.vocabulary.background is not None
        self.background_logit = nn.Parameter(torch.zeros(())) if has_background else None

    @property
    def align_corners(self) -> bool:
        """Corner rule of the head's resizing; MMSeg's postprocessing asks for it."""
        return self.decode_head.align_corners

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes it looks for."""
        return self.text_encoder.vocabulary

    def set_vocabulary(self, vocabulary: Mapping | Vocabulary) -> None:
        """Look for other classes from now on, without training; see :class:`ClassText`."""
        self.text_encoder.set_vocabulary(vocabulary)

    @property
    def out_channels(self) -> int:
        """Channels of the logits, K; MMSeg's inference asks for it."""
        return len(self.vocabulary)

    def class_logits(self, images: Tensor | ImagePrefix, classes: Sequence[int] | None = None) -> Tensor:
        """Logits of classes.

        Args:
            images: (B, 3, H, W) normalised RGB images, or what :meth:`image_prefix` made of them.
            classes: Which classes of the vocabulary, in ascending order. Defaults to None: all K.

        Returns:
            (B, K, H / 4, W / 4), a quarter of the decoder's stride.
        """
        vocabulary, rows = self.vocabulary.subset(range(len(self.vocabulary)) if classes is None else classes)
        if self.text_mode == 'joint':
            logits = self.decode_head(self.extract_feat(images, rows))
        else:
            logits = self._ask_one_by_one(images, vocabulary)
        num_names = [len(names) for index, names in enumerate(vocabulary.classes) if index != vocabulary.background]
        if max(num_names) > 1:
            logits = torch.stack([names.amax(dim=1) for names in logits.split(num_names, dim=1)], dim=1)
        return logits if vocabulary.background is None else self._with_background(logits, vocabulary.background)

    def _with_background(self, logits: Tensor, background: int) -> Tensor:
        """Logits (B, K - 1, h, w) of the classes with text, and 0 for the one without: (B, K, h, w)."""
        if self.background_logit is not None:
            logits = logits - self.background_logit
        before, after = logits.tensor_split([background], dim=1)
        return torch.cat([before, torch.zeros_like(logits[:, :1]), after], dim=1)

    def extract_feat(self, inputs: Tensor | ImagePrefix, names: Sequence[int] | None = None) -> BridgedFeatures:
        """Bridged features of images and class names as one text, as mode ``'joint'`` has them.

        Args:
            inputs: (B, 3, H, W) normalised images, or what :meth:`image_prefix` made of them.
            names: Which of the vocabulary's M names. Defaults to None: all.
        """
        text = self.text_encoder.for_names(None if names is None else torch.tensor(names, device=self._device))
        num_images = inputs.num_images if isinstance(inputs, ImagePrefix) else inputs.shape[0]
        return self.neck(self.backbone, text, inputs, text.ids(num_images))

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _ask_one_by_one(self, images: Tensor | ImagePrefix, vocabulary: Vocabulary) -> Tensor:
        """What a ReferringSegmentor says of each prompt, mean over the templates: (B, M, h, w)."""
        tokens = self.tokenize(vocabulary.prompts).to(self._device)
        # Not by encode_images, which follows test_cfg.dtype: training comes here too.
        prefix = images if isinstance(images, ImagePrefix) else self.image_prefix(images)
        pairs = torch.arange(prefix.num_images * len(tokens), device=self._device)
        chunks = [
            self.decode_head(self.bridge(prefix, tokens[chunk % len(tokens)], chunk // len(tokens)))
            for chunk in pairs.split(self.chunk_size)
        ]
        logits = torch.cat(chunks).squeeze(1)
        return logits.unflatten(0, (prefix.num_images, -1, len(vocabulary.templates))).mean(dim=2)

    def encode_decode(self, inputs: Tensor, batch_img_metas: Sequence | None = None) -> Tensor:
        """Logits (B, K, H, W) of images (B, 3, H, W)."""
        dtype = self.test_cfg.get('dtype')
        with autocast_to(dtype, inputs.device.type):
            logits = self.class_logits(inputs)
        return self._at_full_size(logits.float() if is_lowered(dtype) else logits, inputs)

    def _at_full_size(self, logits: Tensor, inputs: Tensor) -> Tensor:
        # Bilinear, as MMSeg does it: with many classes, bicubic takes as long as the decoder. Each cell's value goes
        # where referring models have it.
        corner_aligned = self.test_cfg.get('corner_aligned', False)
        return at_input_size(logits, hw_of(inputs), corner_aligned, mode='bilinear')

    def _forward(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> Tensor:
        return self.encode_decode(inputs)

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Losses of a batch, at the size of the labels.

        Args:
            inputs: (B, 3, H, W) normalised images.
            data_samples: One for each image, with ``gt_sem_seg`` (1, H, W): classes, 255 where unknown.

        Returns:
            Each loss under its name (the sum of those that share one), and ``acc_seg``, the share of right pixels in
            percent, for the log.

        Raises:
            ValueError: If there is a label that is no class of the vocabulary.
        """
        labels = torch.stack([sample.gt_sem_seg.data for sample in data_samples]).to(inputs.device)
        classes = self._train_classes(labels)
        logits = self._at_full_size(self.class_logits(inputs, classes), inputs)
        place = torch.full((IGNORE_INDEX + 1,), IGNORE_INDEX, device=labels.device)
        place[classes] = torch.arange(len(classes), device=labels.device)
        return self.decode_head.loss_by_labels(logits, place[labels.squeeze(1).long()])

    def _train_classes(self, labels: Tensor) -> list[int]:
        """Ascending classes that take part in a step: those of the labels, the background, and absent ones drawn."""
        found = set(labels.unique().tolist()) - {IGNORE_INDEX}
        if wrong := sorted(label for label in found if label not in range(len(self.vocabulary))):
            raise ValueError(
                f'label {wrong[0]} in the ground truth, but the vocabulary has {len(self.vocabulary)} classes: compare '
                "the data set's classes with model.vocabulary, and look at its reduce_zero_label"
            )
        allowed = [index for index, name in enumerate(self.vocabulary.class_names) if name not in self.held_out]
        if self.max_train_classes is None:
            return allowed
        present = [index for index in allowed if index in found | {self.vocabulary.background}]
        absent = [index for index in allowed if index not in present]
        drawn = torch.randperm(len(absent))[: max(0, self.max_train_classes - len(present))].tolist()
        return sorted(present + [absent[index] for index in drawn])

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        # Weights of a referring model have none, and a list without background leaves another's unused.
        key = f'{prefix}background_logit'
        if self.background_logit is None:
            state_dict.pop(key, None)
        else:
            state_dict.setdefault(key, self.background_logit.detach())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
