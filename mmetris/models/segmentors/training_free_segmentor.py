"""Class names and sentences on a frozen CLIP alone: nothing is trained, and there is no checkpoint but CLIP's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn import functional as F

from mmetris.registry import MODELS
from mmetris.structures import BridgedFeatures, Vocabulary
from mmetris.utils.autocast import autocast_to, is_lowered
from mmetris.utils.config_types import is_kind_of, type_name
from mmetris.utils.shapes import hw_of

from ..decode_heads.cosine_head import CosineHead
from ..necks import ImagePrefix, TextFirst
from ..text_encoders.class_vectors import ClassVectors
from .class_name_segmentor import ClassNameSegmentor

Box = tuple[slice, slice]
# Arguments of a ClassNameSegmentor that are about its training, or that have no meaning without a Bridger.
_OF_TRAINED_MODELS = ('text_mode', 'chunk_size', 'max_train_classes', 'held_out')


class ImageWindows(NamedTuple):
    """What the image encoder has made of pictures, window by window.

    Attributes:
        prefixes: Of each window, for all I pictures.
        boxes: Rows and columns of each window, in pixels of the network's input.
        input_hw: Height and width of that input.
    """

    prefixes: tuple[ImagePrefix, ...]
    boxes: tuple[Box, ...]
    input_hw: tuple[int, int]


def windows_of(input_hw: tuple[int, int], crop_hw: Sequence[int], stride_hw: Sequence[int]) -> list[Box]:
    """Windows that cover a picture, as MMSeg's sliding inference lays them: the last of a row or column ends at the
    border, and a side shorter than a window is one window.

    Args:
        input_hw: Height and width of the picture.
        crop_hw: Those of a window.
        stride_hw: From one window to the next.

    Returns:
        Rows and columns of each window, row by row.
    """
    sides = []
    for length, crop, stride in zip(input_hw, crop_hw, stride_hw):
        ends = [min(index * stride + crop, length) for index in range(max(length - crop + stride - 1, 0) // stride + 1)]
        sides.append([slice(max(end - crop, 0), end) for end in ends])
    return [(rows, columns) for rows in sides[0] for columns in sides[1]]


@MODELS.register_module()
class TrainingFreeSegmentor(ClassNameSegmentor):
    """An image, class names or a sentence, and CLIP's own features on both sides.

    ::

        images --> DenseCLIPViT or DenseCLIPResNet --> a feature for each patch --+
                                                                                  +-- CosineHead --> logits
        names, a sentence -----> ClassVectors ---------> a vector for each -------+

    It is a :class:`ClassNameSegmentor` for MMSeg's data, metrics and test-time augmentation, and answers sentences by
    heat maps (:class:`CosineHead`). Logits of a window are enlarged to its size, bilinearly, each patch's at the middle
    of its pixels, and averaged where windows overlap.

    Args:
        vocabulary: See :class:`ClassNameSegmentor`.
        text_encoder: Config of a :class:`ClassVectors`, which gets the vocabulary.
        decode_head: What differs from a :class:`CosineHead` as it is. Defaults to None.
        neck: Config of a neck without a Bridger. Defaults to None: :class:`TextFirst`.
        background_cosine: Cosine that a class must exceed where the vocabulary has a background, which has no text.
            Defaults to None: there can be none. Give the background names instead, ``['sky', 'wall', 'floor']`` say, or
            leave it out, so that each pixel gets the best of the classes.
        test_cfg: See :class:`ClassNameSegmentor`; the published way is ``dict(mode='slide', crop_size=(224, 224),
            stride=(112, 112))``. Sentences are looked for in the same windows.
        **kwargs: ``backbone``, ``dual_encoder``, ``data_preprocessor``, ``context_length`` and ``init_cfg`` of
            :class:`BridgedModel`.

    Raises:
        ValueError: If an argument is about training, the encoders are of two CLIPs, windows do not suit the image
            encoder, or a background has no ``background_cosine``.
    """

    is_training_free = True
    head_defaults = MappingProxyType(dict(type=CosineHead))
    decode_head: CosineHead
    text_encoder: ClassVectors

    def __init__(
        self,
        vocabulary: Mapping | Vocabulary,
        text_encoder: Mapping,
        decode_head: Mapping | None = None,
        neck: Mapping | None = None,
        background_cosine: float | None = None,
        test_cfg: Mapping | None = None,
        **kwargs: Any,
    ) -> None:
        if wrong := [name for name in _OF_TRAINED_MODELS if name in kwargs]:
            raise ValueError(f'{wrong[0]} is an argument of a ClassNameSegmentor: in this model nothing is trained')
        if not is_kind_of(text_encoder, ClassVectors, MODELS):
            raise ValueError(f'text_encoder.type={type_name(text_encoder)!r}: without training it is ClassVectors')
        if background_cosine is not None and not -1 <= background_cosine <= 1:
            raise ValueError(f'background_cosine={background_cosine} must be between -1 and 1')
        self.background_cosine = background_cosine
        super().__init__(
            vocabulary,
            text_encoder,
            decode_head or {},
            neck=dict(type=TextFirst) if neck is None else neck,
            test_cfg=test_cfg,
            **kwargs,
        )
        self.background_logit = None  # Nothing is learnt.
        self._has_weights = False
        self._check_background(self.vocabulary)
        if (crop_hw := self.test_cfg.get('crop_size')) and any(side % self.backbone.size_divisor for side in crop_hw):
            raise ValueError(
                f'test_cfg.crop_size={tuple(crop_hw)} must be multiples of {self.backbone.size_divisor} pixels, the '
                "image encoder's stride"
            )

    def set_vocabulary(self, vocabulary: Mapping | Vocabulary) -> None:
        if not isinstance(vocabulary, Vocabulary):
            vocabulary = Vocabulary.build(**vocabulary)
        self._check_background(vocabulary)
        super().set_vocabulary(vocabulary)

    def _check_background(self, vocabulary: Vocabulary) -> None:
        if vocabulary.background is not None and self.background_cosine is None:
            raise ValueError(
                f'background={vocabulary.background}: that class has no text, and no value was learnt that others must '
                'exceed. Give it names such as sky, wall, floor, or the model a background_cosine'
            )

    def init_weights(self) -> None:
        """Read CLIP's weights, which are all that there are."""
        super().init_weights()
        self._has_weights = True

    def _ensure_weights(self) -> None:
        """Read them now if nobody did: MMEngine's test of a model without a checkpoint asks for none."""
        if not self._has_weights:
            self.backbone.read_pretrained()
            self.text_encoder.read_pretrained()
            self._has_weights = True

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        self._has_weights = True
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extract_feat(self, inputs: Tensor | ImagePrefix, names: Sequence[int] | None = None) -> BridgedFeatures:
        self._ensure_weights()
        return super().extract_feat(inputs, names)

    def encode_windows(self, images: Tensor) -> ImageWindows:
        """Run the image encoder in each window; :meth:`predict` and :meth:`forward_answers` take the result.

        Args:
            images: (I, 3, H, W) normalised images.
        """
        self._ensure_weights()
        input_hw = hw_of(images)
        boxes = [(slice(0, input_hw[0]), slice(0, input_hw[1]))]
        if self.test_cfg['mode'] == 'slide':
            boxes = windows_of(input_hw, self.test_cfg['crop_size'], self.test_cfg['stride'])
        prefixes = []
        for rows, columns in boxes:
            # The state is not kept: there is no stage left that could go on from it.
            prefixes.append(self.encode_images(images[..., rows, columns])._replace(state=None))
        return ImageWindows(tuple(prefixes), tuple(boxes), input_hw)

    def inference(self, inputs: Tensor | ImageWindows, batch_img_metas: Sequence[dict] | None = None) -> Tensor:
        """Logits of the classes, in the windows of ``test_cfg``: MMSeg's whole and sliding inference.

        Args:
            inputs: (B, 3, H, W) normalised images, or what :meth:`encode_windows` made of them.
            batch_img_metas: Not used; MMSeg's signature. Defaults to None.

        Returns:
            (B, K, H, W).
        """
        windows = inputs if isinstance(inputs, ImageWindows) else self.encode_windows(inputs)
        return self._stitched(windows, self.class_logits)

    def forward_answers(
        self, images: Tensor | ImageWindows, tokens: Tensor, image_index: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Logits of sentences.

        Args:
            images: (I, 3, H, W) normalised images, or what :meth:`encode_windows` made of them.
            tokens: (B, L) token ids.
            image_index: (B,) row of ``images`` that each sentence speaks of. Defaults to None: sentence b speaks of
                image b.

        Returns:
            (B, 1, H, W), at the size of the images; and None, as "not in the picture" is not decided.
        """
        windows = images if isinstance(images, ImageWindows) else self.encode_windows(images)
        with autocast_to(self.test_cfg.get('dtype'), tokens.device.type):
            words, sentence = self.text_encoder(tokens)

        def logits_of(prefix: ImagePrefix) -> Tensor:
            maps = prefix.maps if image_index is None else tuple(one[image_index] for one in prefix.maps)
            return self.decode_head(BridgedFeatures(maps, words, sentence))

        return self._stitched(windows, logits_of), None

    def _stitched(self, windows: ImageWindows, logits_of: Callable[[ImagePrefix], Tensor]) -> Tensor:
        """Logits of all windows, mean where they overlap: (B, K, H, W) float32 or what the encoders compute in."""
        total: Tensor | None = None
        count = torch.zeros(windows.input_hw, device=self._device)
        dtype = self.test_cfg.get('dtype')
        for prefix, (rows, columns) in zip(windows.prefixes, windows.boxes):
            window_hw = rows.stop - rows.start, columns.stop - columns.start
            with autocast_to(dtype, prefix.maps[-1].device.type):
                logits = logits_of(prefix)
            logits = self._enlarged(logits.float() if is_lowered(dtype) else logits, window_hw)
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], *windows.input_hw)
            total[..., rows, columns] += logits
            count[rows, columns] += 1
        assert total is not None  # There is a window at least.
        return total / count

    def _at_full_size(self, logits: Tensor, inputs: Tensor) -> Tensor:
        return self._enlarged(logits, hw_of(inputs))

    @staticmethod
    def _enlarged(logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
        # Not as a trained model does it, whose loss says which pixel a cell stands for: CLIP's patch is all of its own.
        return F.interpolate(logits, size=size_hw, mode='bilinear', align_corners=False)

    def _with_background(self, logits: Tensor, background: int) -> Tensor:
        assert self.background_cosine is not None  # Or there is no such vocabulary.
        return super()._with_background(logits - self.decode_head.logit_scale * self.background_cosine, background)

    def postprocess_result(
        self,
        seg_logits: Tensor,
        data_samples: Sequence[SegDataSample] | None = None,
        input_hw: tuple[int, int] | None = None,
        no_target_scores: None = None,
    ) -> list[SegDataSample]:
        """Predictions of given logits.

        Args:
            seg_logits: Of classes (B, K, H, W), or with ``input_hw`` of sentences (B, 1, H, W).
            data_samples: One for each row, completed in place. Defaults to None: new ones.
            input_hw: Size of the network's input, given for sentences: a :class:`ReferringSegmentor` takes the same
                arguments. Defaults to None: these are classes, for MMSeg's own postprocessing.
            no_target_scores: Not used. Defaults to None.
        """
        if input_hw is None:
            return super().postprocess_result(seg_logits, data_samples)
        return self.decode_head.heat_maps(seg_logits, data_samples)

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """There is none.

        Raises:
            RuntimeError: Always; it says what can be trained.
        """
        raise RuntimeError(
            "a TrainingFreeSegmentor has nothing to train: its weights are CLIP's. configs/semseg has models of class "
            'names that are trained'
        )
