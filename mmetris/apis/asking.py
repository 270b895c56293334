"""What inferencer and predictor share: pictures and sentences through the model's own test pipeline, and what is read
off a probability map.

Each distinct picture is encoded once; what depends on the sentence runs once for each pair of picture and sentence.
The steps are those of ``model.test_step`` behind the config's test pipeline, so the masks are those of
``tools/test.py``.
"""

from __future__ import annotations

import copy
import inspect
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmetris.models.decode_heads import NoTargetRule
from mmetris.models.necks import ImagePrefix
from mmetris.models.segmentors.training_free_segmentor import ImageWindows
from mmetris.registry import TRANSFORMS
from mmetris.structures import RefDataSample
from mmetris.structures.found_boxes import BOX_LISTS, FoundBoxes, append_boxes, box_around, boxes_of_head
from mmetris.structures.vocabulary import Vocabulary
from mmetris.utils.config_types import type_name
from mmetris.utils.expressions import check_expressions
from mmetris.utils.letterbox import LetterboxGeometry
from mmetris.utils.probabilities import check_probability
from mmetris.utils.shapes import bounds_of

from .model_zoo import SEGMENTS_NOTHING
from .shapes_only import ShapesNotes

# What a vocabulary can be made of, see :meth:`Vocabulary.build`.
Classes = str | os.PathLike | Sequence[str | Sequence[str]] | Vocabulary
NO_CLASS = 255


class EncodedImages(NamedTuple):
    """Pictures as far as the model can go without a sentence.

    Attributes:
        prefix: What :meth:`ReferringSegmentor.encode_images` made of them; None for a model of class names
            alone.
        samples: One for each picture, with the meta information of its resizing.
        inputs: (I, 3, H, W) the network's input.
    """

    prefix: ImagePrefix | ImageWindows | None
    samples: list[RefDataSample]
    inputs: Tensor


class Answer(NamedTuple):
    """What is read off one probability map.

    Attributes:
        mask: (H, W) bool, True where the probability is above the threshold.
        box: (4,) float32: left, top, right, bottom of the mask in pixels. Right and bottom are exclusive, so that
            right - left is its width. Zeros if the mask is empty.
        score: Mean probability inside the mask, 0..1; 0 if it is empty.
        is_empty: Whether the mask has no pixel: none is above the threshold, or the sentence means nothing.
        no_target_score: Score that the sentence means nothing in the picture, 0..1; None where the model decides no
            such thing.
        no_target: Whether it means nothing: the mask is empty then, whatever the probabilities.
    """

    mask: np.ndarray
    box: np.ndarray
    score: float
    is_empty: bool
    no_target_score: float | None = None
    no_target: bool = False


# The lists of results that hold the fields of an :class:`Answer`; the last two only of models that decide it.
ANSWER_LISTS = ('masks', 'boxes', 'scores', 'is_empty', 'no_target_scores', 'no_target')
_NO_TARGET_LISTS = ANSWER_LISTS[-2:]


def lists_of(rule: NoTargetRule | None, masks: bool = True, boxes: bool = False) -> list[str]:
    """Names of the lists of answers that a model gives.

    Args:
        rule: How it decides "not in the picture"; None if it does not.
        masks: Whether it gives masks. Defaults to True.
        boxes: Whether the lists of boxes are among them. Defaults to False.
    """
    names = [name for name in ANSWER_LISTS if rule is not None or name not in _NO_TARGET_LISTS]
    if masks:
        names.insert(names.index('boxes'), 'probabilities')
    else:
        names.remove('masks')
    return [*names, *BOX_LISTS] if boxes else names


def append_answer(lists: dict[str, Any], answer: Answer) -> None:
    """Append the fields of an answer to those lists that there are.

    Args:
        lists: Lists by their names, of :func:`lists_of`; others are left alone.
        answer: The answer.
    """
    for name, value in zip(ANSWER_LISTS, answer, strict=True):
        if name in lists:
            lists[name].append(value)


def read_answer(
    probability: np.ndarray,
    threshold: float = 0.35,
    no_target_score: float | None = None,
    no_target: bool = False,
) -> Answer:
    """Mask, box and score of a probability map; moving the threshold needs no more than this.

    Args:
        probability: (H, W), 0..1.
        threshold: Pixels above it belong to the mask. Defaults to 0.35, ETRIS's (Sec. 4.2).
        no_target_score: See :class:`Answer`. Defaults to None.
        no_target: Whether the sentence means nothing. Defaults to False.

    Raises:
        ValueError: If the threshold is not between 0 and 1.
    """
    mask = probability > check_threshold(threshold)
    return describe_mask(np.zeros_like(mask) if no_target else mask, probability, no_target_score, no_target)


def describe_mask(
    mask: np.ndarray, probability: np.ndarray, no_target_score: float | None = None, no_target: bool = False
) -> Answer:
    """Box and score of a mask.

    Args:
        mask: (H, W) bool.
        probability: (H, W), 0..1.
        no_target_score: See :class:`Answer`. Defaults to None.
        no_target: See there. Defaults to False.
    """
    if not mask.any():
        return Answer(mask, np.zeros(4, np.float32), 0.0, True, no_target_score, no_target)
    box = np.array(bounds_of(mask), np.float32)
    score = float(probability[mask].mean(dtype=np.float64))
    return Answer(mask, box, score, False, no_target_score, no_target)


def answer_of_boxes(found: FoundBoxes) -> Answer:
    """The answer of a model that gives boxes alone: the best box and its score; its mask has no pixel at all."""
    none = np.zeros((0, 0), bool)
    if not len(found.boxes):
        return Answer(none, np.zeros(4, np.float32), 0.0, True)
    return Answer(none, found.boxes[0], float(found.scores[0]), False)


def check_threshold(threshold: float) -> float:
    """The threshold, if it is a number strictly between 0 and 1.

    Raises:
        ValueError: If it is not.
    """
    return check_probability(threshold, 'threshold')


def set_no_target(cfg: Config, no_target: float | Mapping | bool | None) -> None:
    """Let the model that is built from a config decide "not in the picture" otherwise.

    Args:
        cfg: The config, whose ``model.test_cfg.no_target`` is changed; without a ``model``, whoever builds it says so.
        no_target: A threshold for the rule that the config has; or a rule, or False for none, see
            :class:`ReferringSegmentor`. None changes nothing.
    """
    if no_target is None or 'model' not in cfg:
        return
    test_cfg = dict(cfg.model.get('test_cfg') or {})
    if not isinstance(no_target, (Mapping, bool)):
        no_target = dict(test_cfg.get('no_target') or {}, threshold=no_target)
    cfg.model.test_cfg = dict(test_cfg, no_target=no_target)


class Asker:
    """A model with its test pipeline, cut in two: what a picture needs, what a sentence needs.

    Args:
        model: A :class:`ReferringSegmentor`, :class:`ClassNameSegmentor` or :class:`TrainingFreeSegmentor` in
            evaluation mode.
        cfg: Its config. The test pipeline is that of ``test_dataloader``; without one, pictures are letterboxed to
            ``input_size`` and sentences cut at ``context_length``.

    Attributes:
        by_class: Whether the model chooses between classes.
        by_sentence: Whether it answers sentences. A :class:`TrainingFreeSegmentor` does both.
        gives_boxes: Whether a box head of the model predicts boxes (``pred_instances`` of a sample).
        own_threshold: Probability above which a pixel belongs to the mask by the model itself; None of a model that
            gives no masks.
        box_threshold: Score from which on a box is given; None: the best box of each sentence.
        notes: What is to be said of each picture's answers; None where nothing is. Whoever knows the weights sets it.
        config_name: File of the config, for messages; None where it came from none.

    Raises:
        ValueError: If the model does not take sentences, or there is no pipeline.
    """

    def __init__(self, model: nn.Module, cfg: Config) -> None:
        if getattr(model, 'gives_classes', False):
            raise ValueError(f'{type(model).__name__} {SEGMENTS_NOTHING}')
        if not hasattr(model, 'encode_images'):
            raise ValueError(f'{type(model).__name__} does not take sentences; a ReferringSegmentor is needed')
        init_default_scope('mmetris')
        self.model: Any = model  # Told apart by what it can do.
        self.by_class, self.by_sentence = hasattr(model, 'class_logits'), hasattr(model, 'forward_answers')
        self.gives_boxes = bool(getattr(model, 'gives_boxes', False))
        # A model of boxes says itself whether there are masks, too.
        known: Any = model
        self.own_threshold: float | None = known.mask_threshold if self.gives_boxes else known.decode_head.threshold
        self.box_threshold: float | None = (getattr(model, 'test_cfg', None) or {}).get('box_threshold')
        self.notes: ShapesNotes | None = None
        self.config_name: str | None = cfg.filename
        steps, self.context_length, self.to_float32 = [], cfg.get('context_length'), False
        for step in test_pipeline(cfg):
            kind = type_name(step)
            if kind in ('LoadImageFromFile', 'InferencerLoader'):
                self.to_float32 = bool(step.get('to_float32', False))
            elif kind == 'TokenizeExpression':
                default = inspect.signature(TRANSFORMS.get('TokenizeExpression')).parameters['context_length'].default
                self.context_length = step.get('context_length', default)
            elif not kind.startswith('LoadAnnotations'):
                steps.append(TRANSFORMS.build(step))
        self.pipeline = Compose(steps)

    @property
    def no_target_rule(self) -> NoTargetRule | None:
        """How the model decides that a sentence means nothing in the picture; None if it does not."""
        return None if self.by_class else self.model.no_target_rule

    @property
    def gives_masks(self) -> bool:
        """Whether the model gives masks."""
        return self.own_threshold is not None

    def check_threshold(self, threshold: float | None) -> float | None:
        """The threshold of masks to use: the one given, or the model's own.

        Raises:
            ValueError: If it is not between 0 and 1, or the model gives no masks.
        """
        if threshold is None:
            return self.own_threshold
        if not self.gives_masks:
            raise ValueError(
                f'threshold={threshold:g} is one of masks, and this model gives boxes alone: box_threshold '
                '(--box-threshold) is the least score of a box'
            )
        return check_threshold(threshold)

    def check_box_threshold(self, threshold: float | None) -> float | None:
        """The least score of a box: the one given, or the model's own.

        Raises:
            ValueError: If it is not between 0 and 1.
        """
        return self.box_threshold if threshold is None else check_probability(threshold, 'box_threshold')

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def max_tokens(self) -> int:
        """Tokens of a sentence that the model reads, [SOS] and [EOS] included."""
        own = self.model.context_length or self.model.text_encoder.context_length
        return (self.context_length if self.model.reads_clip_tokens else None) or own

    def check_texts(self, texts: str | Sequence[str]) -> list[str]:
        """Sentences as a list; see :func:`mmetris.utils.expressions.check_expressions`.

        Raises:
            ValueError: Besides, if the model takes class names and no sentences.
        """
        if not self.by_sentence:
            raise ValueError(f'{type(self.model).__name__} looks for classes: give classes instead of texts')
        return check_expressions(texts, self.max_tokens)

    @torch.no_grad()
    def encode(self, images: Sequence[np.ndarray], names: Sequence[str]) -> EncodedImages:
        """Run everything that does not depend on a sentence.

        Args:
            images: (H, W, 3) BGR, 0..255.
            names: What they are called, for the samples' ``img_path``.
        """
        packed = []
        for image, name in zip(images, names, strict=True):
            pixels = image.astype(np.float32) if self.to_float32 else image
            packed.append(
                self.pipeline(
                    dict(img=pixels, img_path=name, ori_shape=image.shape[:2], img_shape=image.shape[:2], seg_fields=[])
                )
            )
        batch = self.model.data_preprocessor(
            dict(inputs=[one['inputs'] for one in packed], data_samples=[one['data_samples'] for one in packed]), False
        )
        inputs = batch['inputs']
        prefix = None
        if self.by_sentence:
            prefix = self.model.encode_windows(inputs) if self.by_class else self.model.encode_images(inputs)
        return EncodedImages(prefix, batch['data_samples'], inputs)

    @torch.no_grad()
    def ask(
        self,
        encoded: EncodedImages,
        texts: Sequence[str],
        image_index: Sequence[int],
        out_hw: tuple[int, int] | None = None,
    ) -> list[RefDataSample]:
        """Run everything that depends on the sentence.

        Args:
            encoded: What :meth:`encode` made of the pictures.
            texts: Sentences that :meth:`check_texts` has passed.
            image_index: The picture that each sentence speaks of.
            out_hw: Size of the maps. Defaults to None: the picture's.

        Returns:
            A sample for each sentence, on the CPU, with ``pred_sem_seg`` and ``seg_logits`` at that size,
            ``no_target_score`` where the model decides "not in the picture", and ``pred_instances`` where it has a box
            head.
        """
        samples = self.samples_of(encoded, texts, image_index, out_hw)
        tokens = self.tokens_of(texts, samples)
        for sample, ids in zip(samples, tokens):
            sample.tokens = ids
        # Of a box head there are boxes and their scores behind the first two.
        logits, *more = self.model.forward_answers(
            encoded.prefix, tokens, torch.tensor(list(image_index), device=tokens.device)
        )
        input_hw = tuple(encoded.inputs.shape[-2:])
        predicted = self.model.postprocess_result(logits, samples, input_hw, *more)
        return [sample.cpu() for sample in predicted]

    @staticmethod
    def samples_of(
        encoded: EncodedImages,
        texts: Sequence[str],
        image_index: Sequence[int],
        out_hw: tuple[int, int] | None = None,
    ) -> list[RefDataSample]:
        """Samples to be completed, one for each sentence; arguments are those of :meth:`ask`."""
        samples = []
        for text, index in zip(texts, image_index, strict=True):
            sample = encoded.samples[index].new()
            sample.set_metainfo(dict(expression=text))
            if out_hw is not None:
                _answer_at_size(sample, out_hw)
            samples.append(sample)
        return samples

    def lists(self, boxes: bool = False) -> list[str]:
        """Names of the lists of answers that this model gives, see :func:`lists_of`.

        Args:
            boxes: Whether boxes are asked for; a model that gives nothing else gives them anyhow. Defaults to False.
        """
        return lists_of(self.no_target_rule, self.gives_masks, boxes or not self.gives_masks)

    def append(
        self, lists: dict[str, Any], sample: RefDataSample, threshold: float | None, box_threshold: float | None
    ) -> None:
        """Append what a predicted sample says to the lists of a result.

        Args:
            lists: Lists by their names, of :func:`lists_of`; others are left alone.
            sample: What :meth:`ask` returned.
            threshold: Of :meth:`check_threshold`.
            box_threshold: Of :meth:`check_box_threshold`.
        """
        found = None
        if self.gives_boxes:
            found = boxes_of_head(sample.pred_instances, sample.ori_shape[:2], box_threshold)
        if self.own_threshold is not None and threshold is not None:
            answer, probability = answer_of(sample, threshold, self.own_threshold)
            append_answer(lists, answer)
            lists['probabilities'].append(probability)
            found = box_around(answer.mask, answer.score, box_threshold) if found is None else found
        else:
            assert found is not None  # A model gives masks or boxes.
            append_answer(lists, answer_of_boxes(found))
        if BOX_LISTS[0] in lists:
            append_boxes(lists, found)

    def vocabulary_of(self, classes: Classes | None) -> Vocabulary:
        """Classes as users give them; None is the vocabulary of a model that has one.

        Raises:
            ValueError: If they are no vocabulary, None and the model has none, or the model gives no masks.
        """
        if not self.gives_masks:
            raise ValueError(
                f'this {type(self.model).__name__} gives boxes alone, and classes are for masks: ask it sentences, or '
                'take a model that gives masks'
            )
        if isinstance(classes, Vocabulary):
            return classes
        if classes is None:
            if not self.by_class:
                raise ValueError('give texts (sentences) or classes (names)')
            return self.model.vocabulary
        own = self.model.vocabulary if self.by_class else None
        source = Path(classes) if isinstance(classes, os.PathLike) else classes
        # A model of class names chooses between them; a referring model finds one, or nothing.
        return Vocabulary.build(source, None if own is None else own.templates, least=2 if self.by_class else 1)

    @torch.no_grad()
    def label_maps(
        self, encoded: EncodedImages, vocabulary: Vocabulary, threshold: float, batch_size: int = 8
    ) -> list[np.ndarray]:
        """The class of each pixel.

        A model of class names decides as in testing. A referring model is asked about every name; a pixel gets the
        class of the highest probability, and none where all are below the threshold. A name that the model takes for
        not in the picture gets no pixel.

        Args:
            encoded: What :meth:`encode` made of the pictures.
            vocabulary: The classes.
            threshold: For referring models.
            batch_size: Names that go through a referring model together. Defaults to 8.

        Returns:
            For each picture (H, W) uint8: index of the class, 255 where there is none.

        Raises:
            ValueError: If there are more than 255 classes.
        """
        if len(vocabulary) > NO_CLASS:
            raise ValueError(f'{len(vocabulary)} classes do not fit into a label map of 8 bits: at most {NO_CLASS}')
        if not self.by_class:
            return [
                self._label_map(encoded, row, vocabulary, threshold, batch_size) for row in range(len(encoded.samples))
            ]
        own = self.model.vocabulary
        try:
            if vocabulary != own:
                self.model.set_vocabulary(vocabulary)
            inputs = encoded.inputs if encoded.prefix is None else encoded.prefix
            samples = self.model.predict(inputs, [sample.new() for sample in encoded.samples])
        finally:
            if vocabulary != own:
                self.model.set_vocabulary(own)
        return [sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8) for sample in samples]

    def _label_map(
        self, encoded: EncodedImages, row: int, vocabulary: Vocabulary, threshold: float, batch_size: int
    ) -> np.ndarray:
        prompts = self.check_texts(vocabulary.prompts)
        owners = np.repeat(vocabulary.name_classes, len(vocabulary.templates))
        height, width = encoded.samples[row].ori_shape
        best = np.full((height, width), threshold, np.float32)
        labels = np.full((height, width), NO_CLASS, np.uint8)
        for start in range(0, len(prompts), batch_size):
            chunk = prompts[start : start + batch_size]
            for sample, label in zip(self.ask(encoded, chunk, [row] * len(chunk)), owners[start:]):
                if sample.get('pred_no_target', False):
                    continue
                probability = sample.seg_logits.data[0].float().sigmoid().numpy()
                higher = probability > best
                best[higher], labels[higher] = probability[higher], label
        return labels

    def tokens_of(self, texts: Sequence[str], samples: Sequence[RefDataSample]) -> Tensor:
        """Token ids (B, L), as long as the test pipeline makes them."""
        if self.context_length is None:
            return self.model.tokens_of(samples, self.device)
        return self.model.tokenize(list(texts), self.context_length).to(self.device)


def _answer_at_size(sample: RefDataSample, out_hw: tuple[int, int]) -> None:
    """Let the maps of a sample have another size than its picture: fewer or more pixels over the same area."""
    height, width = sample.ori_shape[:2]
    ratio = math.sqrt(height * width / (out_hw[0] * out_hw[1]))
    if 'letterbox' in sample:
        scale, left, top = sample.letterbox
        shift = scale * (ratio - 1) / 2  # Coordinates are those of pixel centres.
        sample.set_metainfo(dict(letterbox=LetterboxGeometry(scale * ratio, left + shift, top + shift)))
    sample.set_metainfo(dict(ori_shape=tuple(out_hw)))


def answer_of(sample: RefDataSample, threshold: float, own_threshold: float) -> tuple[Answer, np.ndarray]:
    """Read a predicted sample; its mask becomes that of ``threshold`` where this is not the model's own.

    Args:
        sample: What :meth:`Asker.ask` returned.
        threshold: The one asked for.
        own_threshold: The one that the model used.

    Returns:
        The answer, and the probability map (H, W) float32.
    """
    probability = sample.seg_logits.data[0].float().sigmoid().numpy()
    no_target = sample.get('no_target_score'), sample.get('pred_no_target', False)
    if threshold == own_threshold:
        # Not by the probabilities, which were logits in between: a pixel right at the threshold could change sides.
        return describe_mask(sample.pred_sem_seg.data[0].numpy() == 1, probability, *no_target), probability
    answer = read_answer(probability, threshold, *no_target)
    sample.pred_sem_seg.data = torch.from_numpy(answer.mask[None].astype(np.uint8))
    return answer, probability


def test_pipeline(cfg: Config) -> list[dict[str, Any]]:
    """The config's test pipeline, wherever its data set is wrapped in others.

    Args:
        cfg: The config.

    Raises:
        ValueError: If it has none.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    while isinstance(dataset, dict) and 'pipeline' not in dataset:
        dataset = dataset.get('dataset') or (dataset.get('datasets') or [None])[0]
    if isinstance(dataset, dict):
        return copy.deepcopy(list(dataset['pipeline']))
    if 'test_pipeline' in cfg:
        return copy.deepcopy(list(cfg.test_pipeline))
    if 'input_size' in cfg:
        return [dict(type='Letterbox', size=tuple(cfg.input_size)), dict(type='PackSegInputs')]
    raise ValueError(
        f'{cfg.filename or "the config"} has no test pipeline (test_dataloader.dataset.pipeline, '
        'test_pipeline) and no input_size'
    )
