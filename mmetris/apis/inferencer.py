"""Masks for pictures and sentences in one call, in the manner of MMSeg's inferencer."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.infer import BaseInferencer
from rich.console import Console
from rich.progress import track
from torch import nn

from mmetris.structures.found_boxes import BOX_LISTS
from mmetris.utils.autocast import check_dtype, set_test_dtype
from mmetris.utils.image_io import MAX_PIXELS, ImageSource, expand_folders, read_images
from mmetris.visualization import draw_expressions, draw_labels

from .asking import ANSWER_LISTS, Asker, Classes, check_threshold, set_no_target
from .model import init_model
from .model_zoo import find_model, indexed_models
from .result_files import LabelWriter, ResultWriter
from .shapes_only import NOTE, notes_for

PER_SENTENCE = ('texts', *ANSWER_LISTS, 'probabilities', *BOX_LISTS, 'data_samples')

# Index, BGR picture and name of pictures that are encoded together.
_Group = list[tuple[int, np.ndarray, str]]


class RefSegInferencer(BaseInferencer):
    """Segment what sentences mean.

    Args:
        model: Config file, name in the model index, folder of a training (config and best checkpoint), a shared model
            (``hf://owner/name``, or its folder), or a config.
            Defaults to None: the demo model that ships with mmetris; it knows drawn shapes only.
        weights: Checkpoint, full or slim, a file or an address. Defaults to None: those that belong to ``model``; a
            :class:`TrainingFreeSegmentor` needs none.
        device: ``'cpu'``, ``'cuda:0'``... Defaults to None: a GPU if there is one, else the CPU.
        threshold: Pixels of a higher probability belong to the mask. Defaults to None: the model's own, 0.35.
        max_pixels: Largest picture that is read, height times width. The default is 8192 x 8192.
        scope: Registry scope of the config. Defaults to 'mmetris'.
        show_progress: Whether to show a progress bar, on the standard error. Defaults to True.
        dtype: What the model computes in: ``'float32'``, ``'bfloat16'``, or on a GPU ``'float16'``. Defaults to None:
            what the config says, float32 if nothing.
        no_target: How "not in the picture" is decided: a threshold for the model's own rule, or a rule,
            ``dict(by='top', threshold=0.5)``, or False for none, see :class:`ReferringSegmentor`. Defaults to None: as
            the config says.

    Raises:
        FileNotFoundError: If model or weights are missing.
        ValueError: If the weights do not belong to the model, ``dtype`` is another, ``no_target`` is no rule, or none
            for this model, or the model classifies pictures.

    Example:
        >>> inferencer = RefSegInferencer()
        >>> result = inferencer('shapes.jpg', ['the red circle', 'the square on the left'], out_dir='results')
        >>> result['masks'][0].shape, result['scores'][0]
        ((128, 128), 0.83)
    """

    def __init__(
        self,
        model: str | os.PathLike | Config | None = None,
        weights: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        threshold: float | None = None,
        max_pixels: int = MAX_PIXELS,
        scope: str = 'mmetris',
        show_progress: bool = True,
        dtype: str | None = None,
        no_target: float | Mapping | bool | None = None,
    ) -> None:
        if threshold is not None:
            check_threshold(threshold)
        check_dtype(dtype, 'dtype')
        files = find_model(model, weights, classifies=False)
        set_test_dtype(files.config, dtype)
        set_no_target(files.config, no_target)
        super().__init__(files.config, files.weights, device, scope, show_progress)
        self.asker.notes = notes_for(files.weights)
        self.own_threshold = self.asker.own_threshold
        # Of a model that gives boxes alone, None: nobody compares it.
        self.threshold: float = cast(float, self.asker.check_threshold(threshold))
        self.max_pixels = max_pixels
        self.no_target_rule = self.asker.no_target_rule

    def __call__(
        self,
        inputs: ImageSource | Sequence[ImageSource],
        texts: str | Sequence[str] | Sequence[Sequence[str]],
        batch_size: int = 8,
        threshold: float | None = None,
        return_probabilities: bool = True,
        return_datasamples: bool = False,
        return_vis: bool = False,
        out_dir: str | os.PathLike | None = None,
        skip_unreadable: bool = False,
        boxes: bool = False,
        box_threshold: float | None = None,
    ) -> dict[str, list]:
        """Segment.

        Args:
            inputs: A picture or several: file name, address, folder, bytes, array (BGR, as MMCV has them), PIL image.
            texts: A sentence or a list of sentences, asked about every picture; or one list for each picture.
            batch_size: Pairs of picture and sentence that go through the model together. Each picture is encoded once,
                however many sentences it has. Defaults to 8.
            threshold: Defaults to None: the inferencer's.
            return_probabilities: Whether to keep the probability maps, the largest part of the result. Defaults to
                True.
            return_datasamples: Whether the result has ``data_samples``, MMSeg's form. Defaults to False.
            return_vis: Whether the result has ``visualization``: one picture with masks and sentences for each input.
                Defaults to False.
            out_dir: Folder for PNG masks, overlays and a JSON of COCO's run-length masks, see
                :mod:`mmetris.apis.result_files`. Defaults to None, nothing is written.
            skip_unreadable: Leave out pictures that cannot be read, with a warning, instead of stopping. Defaults to
                False.
            boxes: Whether the boxes of each sentence are in result, pictures and JSON: those that the model's box head
                predicts (``projects/grounding``) or, of a model that gives masks alone, the box around the mask. A
                model that gives boxes alone gives them in any case. Defaults to False.
            box_threshold: Boxes of a lower score are left out. Defaults to None: the model's own; without one, each
                sentence has its best box.

        Returns:
            Lists with one entry for each pair of picture and sentence, in order of the pictures: ``image_index``,
            ``texts``, ``masks`` (H, W) bool, ``probabilities`` (H, W) float32, ``boxes`` (left, top, right, bottom in
            pixels; right and bottom exclusive; zeros if empty), ``scores`` (mean probability inside the mask, 0 if
            empty), ``is_empty`` (whether no pixel is above the threshold). Of a model that decides "not in the picture"
            also ``no_target_scores`` (0..1) and ``no_target`` (whether the score is at or above
            ``no_target_rule.threshold``, so that the mask is empty). With ``boxes`` also ``pred_boxes`` (K, 4), in the
            form of ``boxes`` and cut to the picture (K is 0 where nothing was found), ``pred_box_scores`` (K,) in 0..1,
            highest first, and ``box_source``: ``'head'``, or ``'mask'`` of boxes around masks. A model that gives boxes
            alone has neither ``masks`` nor ``probabilities``; its ``boxes`` and ``scores`` are the best box and its
            score, and ``is_empty`` says whether there is none. And with one entry for each picture:
            ``images`` (names), ``visualization`` (RGB), and of the demo model ``notes``: that it knows drawn shapes
            only, and whether this picture is unlike those. A picture that was skipped has None there.

        Raises:
            FileNotFoundError: If a file is missing, or a folder has no pictures.
            ValueError: If a picture cannot be read, a sentence is empty, or numbers do not match.
        """
        threshold = self.threshold if threshold is None else self.asker.check_threshold(threshold)
        sources = self._inputs_to_list(inputs)
        result: dict[str, list] = dict(images=[None] * len(sources), image_index=[])
        result.update(
            {
                key: []
                for key in self._lists(boxes)
                if (key != 'probabilities' or return_probabilities) and (key != 'data_samples' or return_datasamples)
            }
        )
        if return_vis:
            result['visualization'] = [None] * len(sources)
        if self.note is not None:
            result['notes'] = [None] * len(sources)
        writer = None if out_dir is None else ResultWriter(out_dir, threshold, self.no_target_rule, self.note)
        answers: Iterable[dict[str, Any]] = self.stream(
            sources, texts, batch_size, threshold, skip_unreadable, boxes, box_threshold
        )
        if self.show_progress:
            answers = track(answers, description='Inference', total=len(sources), console=Console(stderr=True))
        with nullcontext() if writer is None else writer:  # Whatever stops the run, files of what was found are kept.
            for one in answers:
                index, overlay = one['index'], None
                if return_vis:
                    overlay = result['visualization'][index] = self.visualize(one)
                if writer is not None:
                    writer.add_answers(one, overlay)
                result['images'][index] = one['name']
                if 'note' in one:
                    result['notes'][index] = one['note']
                self.postprocess(one, result)
        return result

    def label_maps(
        self,
        inputs: ImageSource | Sequence[ImageSource],
        classes: Classes | None = None,
        batch_size: int = 8,
        threshold: float | None = None,
        return_vis: bool = False,
        out_dir: str | os.PathLike | None = None,
        skip_unreadable: bool = False,
    ) -> dict[str, list]:
        """Give each pixel one of the classes, which are given by name.

        A model of class names (:class:`ClassNameSegmentor`) decides as in testing. A referring model is asked about
        each name: a pixel gets the class of the highest probability, and none where all are below the threshold.

        Args:
            inputs: See :meth:`__call__`.
            classes: Names, or lists of names that mean the same class; or a data set that MMSeg knows (``'ade20k'``),
                or a text file with a class in each line. Defaults to None: those of a model of class names.
            batch_size: See :meth:`__call__`. Defaults to 8.
            threshold: See there; not used by models of class names. Defaults to None: the inferencer's.
            return_vis: See there. Defaults to False.
            out_dir: Folder for ``labels/<image>.png`` (the label maps), ``overlays/<image>.jpg`` and ``classes.json``
                (the names in order). Defaults to None, nothing is written.
            skip_unreadable: See there. Defaults to False.

        Returns:
            ``classes``, the names, and with one entry for each picture ``images`` (names), ``label_maps`` (H, W) uint8
            (index of the class, 255 where there is none), on request ``visualization`` (RGB), and of the demo model
            ``notes``, see :meth:`__call__`. A picture that was skipped has None there.

        Raises:
            ValueError: If the names are no vocabulary, or a picture cannot be read.
        """
        vocabulary = self.asker.vocabulary_of(classes)
        threshold = self.threshold if threshold is None else check_threshold(threshold)
        names = list(vocabulary.class_names)
        sources = self._inputs_to_list(inputs)
        result: dict[str, list] = dict(classes=names, images=[None] * len(sources), label_maps=[None] * len(sources))
        if return_vis:
            result['visualization'] = [None] * len(sources)
        if self.note is not None:
            result['notes'] = [None] * len(sources)
        writer = None if out_dir is None else LabelWriter(out_dir, names)
        groups: Iterable[_Group] = self.preprocess(
            sources, 1, sentences=[['']] * len(sources), skip_unreadable=skip_unreadable
        )
        if self.show_progress:
            groups = track(groups, description='Inference', total=len(sources), console=Console(stderr=True))
        with nullcontext() if writer is None else writer:
            for ((index, image, name),) in groups:
                labels = self.asker.label_maps(self.asker.encode([image], [name]), vocabulary, threshold, batch_size)[0]
                result['images'][index], result['label_maps'][index] = name, labels
                if self.asker.notes is not None:
                    result['notes'][index] = self.asker.notes.of(image, name)
                if return_vis or writer is not None:
                    overlay = draw_labels(np.ascontiguousarray(image[..., ::-1]), names, labels)
                    if return_vis:
                        result['visualization'][index] = overlay
                    if writer is not None:
                        writer.add(name, labels, overlay)
        return result

    def stream(
        self,
        inputs: ImageSource | Sequence[ImageSource],
        texts: str | Sequence[str] | Sequence[Sequence[str]],
        batch_size: int = 8,
        threshold: float | None = None,
        skip_unreadable: bool = False,
        boxes: bool = False,
        box_threshold: float | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Segment picture by picture, for inputs whose results are too many to hold at once.

        Args:
            inputs: See :meth:`__call__`.
            texts: See there.
            batch_size: See there. Defaults to 8.
            threshold: See there. Defaults to None: the inferencer's.
            skip_unreadable: See there. Defaults to False.
            boxes: See there. Defaults to False.
            box_threshold: See there. Defaults to None: the model's own.

        Yields:
            For each picture ``index``, ``name``, ``image`` (H, W, 3) RGB, upright, and the lists of :meth:`__call__`
            with one entry for each of its sentences; and of the demo model ``note``, see there.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f'batch_size must be a positive number, but is {batch_size!r}')
        threshold = self.threshold if threshold is None else self.asker.check_threshold(threshold)
        least_score = self.asker.check_box_threshold(box_threshold)
        sources = self._inputs_to_list(inputs)
        sentences = self._texts_of_images(texts, len(sources))
        for group in self.preprocess(sources, batch_size, sentences=sentences, skip_unreadable=skip_unreadable):
            for index, image, name, samples in self.forward(group, batch_size=batch_size, sentences=sentences):
                one: dict[str, Any] = dict(index=index, name=name, image=np.ascontiguousarray(image[..., ::-1]))
                one.update({key: [] for key in self._lists(boxes)}, texts=sentences[index], data_samples=samples)
                for sample in samples:
                    self.asker.append(one, sample, threshold, least_score)
                if self.asker.notes is not None:
                    one['note'] = self.asker.notes.of(image, name)
                yield one

    def preprocess(
        self,
        inputs: list[ImageSource],
        batch_size: int = 8,
        sentences: Sequence[Sequence[str]] = (),
        skip_unreadable: bool = False,
    ) -> Iterator[list[tuple[int, np.ndarray, str]]]:
        """Read pictures, as many at a time as make a batch.

        Args:
            inputs: Pictures.
            batch_size: Pairs of picture and sentence that a group has at least, unless it is the last. Defaults to 8.
            sentences: The sentences of each picture.
            skip_unreadable: See :meth:`__call__`. Defaults to False.

        Yields:
            Groups of (index, BGR picture, name).
        """
        group, pairs = [], 0
        for index, image, name in read_images(inputs, self.max_pixels, skip_unreadable):
            group.append((index, image, name))
            pairs += len(sentences[index])
            if pairs >= batch_size:
                yield group
                group, pairs = [], 0
        if group:
            yield group

    @torch.no_grad()
    def forward(
        self, inputs: list[tuple[int, np.ndarray, str]], batch_size: int = 8, sentences: Sequence[Sequence[str]] = ()
    ) -> list[tuple[int, np.ndarray, str, list]]:
        """Encode the pictures of a group once and ask all their sentences, a batch at a time.

        Args:
            inputs: A group of :meth:`preprocess`.
            batch_size: Pairs at a time. Defaults to 8.
            sentences: The sentences of each picture.

        Returns:
            (index, BGR picture, name, samples) of each picture.
        """
        encoded = self.asker.encode([image for _, image, _ in inputs], [name for _, _, name in inputs])
        pairs = [(row, text) for row, (index, _, _) in enumerate(inputs) for text in sentences[index]]
        samples: list[list] = [[] for _ in inputs]
        for start in range(0, len(pairs), batch_size):
            rows, texts = zip(*pairs[start : start + batch_size])
            for row, sample in zip(rows, self.asker.ask(encoded, texts, rows)):
                samples[row].append(sample)
        return [(*one, samples[row]) for row, one in enumerate(inputs)]

    def visualize(self, inputs: dict[str, Any], preds: Any = None, show: bool = False, **kwargs: Any) -> np.ndarray:
        """Draw one picture of :meth:`stream` with its masks and sentences.

        Args:
            inputs: What :meth:`stream` yields.
            preds: Not used; they are in ``inputs``.
            show: Not used.
            **kwargs: Arguments of :func:`mmetris.visualization.draw_expressions`.

        Returns:
            (H', W', 3) RGB.
        """
        options = {key: inputs[key] for key in ('no_target', *BOX_LISTS) if key in inputs} | kwargs
        masks, scores = inputs.get('masks'), inputs['scores']
        return draw_expressions(inputs['image'], inputs['texts'], masks, scores, **options)

    def postprocess(
        self, preds: dict[str, Any], visualization: dict[str, list], return_datasample: bool = False, **kwargs: Any
    ) -> dict[str, list]:
        """Add one picture of :meth:`stream` to the result of :meth:`__call__`.

        Args:
            preds: What :meth:`stream` yields.
            visualization: The result so far; what it has no list for is dropped.
            return_datasample: Not used.
            **kwargs: Not used.
        """
        visualization['image_index'].extend([preds['index']] * len(preds['texts']))
        for key in PER_SENTENCE:
            if key in visualization:
                visualization[key].extend(preds[key])
        return visualization

    @property
    def note(self) -> str | None:
        """What is to be said of all answers; None of another model than the one that ships."""
        return None if self.asker.notes is None else NOTE

    def _lists(self, boxes: bool) -> list[str]:
        """Names of the lists with one entry for each sentence."""
        return ['texts', *self.asker.lists(boxes), 'data_samples']

    def _inputs_to_list(self, inputs: ImageSource | Sequence[ImageSource]) -> list[ImageSource]:
        """Pictures one by one; a folder stands for those in it."""
        return expand_folders(inputs)

    def _texts_of_images(
        self, texts: str | Sequence[str] | Sequence[Sequence[str]], num_images: int
    ) -> list[list[str]]:
        """The sentences of each picture, checked once for all."""
        if not isinstance(texts, (list, tuple)) or all(isinstance(text, str) for text in texts):
            return [self.asker.check_texts(cast('str | Sequence[str]', texts))] * num_images
        for number, entry in enumerate(texts, 1):
            if not isinstance(entry, (str, list, tuple)):
                raise TypeError(f'a sentence must be a string, but sentence {number} is {entry!r}')
        if len(texts) != num_images:
            raise ValueError(
                f'texts has {len(texts)} lists of sentences for {num_images} images; give one for each, '
                'or a single list of strings for all'
            )
        lists = [[entry] if isinstance(entry, str) else list(entry) for entry in texts]
        if not all(lists):
            raise ValueError(f'image {lists.index([])} has no sentence')
        checked = iter(self.asker.check_texts([text for entry in lists for text in entry]))
        return [[next(checked) for _ in entry] for entry in lists]

    def _init_model(self, cfg: Config, weights: str | None, device: str = 'cpu') -> nn.Module:
        """Build the model; pickled code in a checkpoint is refused, which MMEngine's own loading does not."""
        return init_model(cfg, weights, device)

    def _init_pipeline(self, cfg: Config) -> Any:
        """The part of the test pipeline that concerns pictures."""
        self.asker = Asker(self.model, cfg)
        return self.asker.pipeline

    def _init_collate(self, cfg: Config) -> Any:
        """MMEngine's plain one; batches are made in :meth:`preprocess`."""
        return pseudo_collate

    def _init_visualizer(self, cfg: Config) -> None:
        """None: pictures are drawn without the backends of a training."""

    @staticmethod
    def list_models(scope: str | None = 'mmetris', patterns: str = r'.*') -> list[str]:
        """Names in the model index.

        Args:
            scope: Not used; MMEngine's signature. Defaults to 'mmetris'.
            patterns: Regular expression that a name must begin with. Defaults to all.
        """
        return [model['Name'] for model in indexed_models() if re.match(patterns, model['Name'])]
