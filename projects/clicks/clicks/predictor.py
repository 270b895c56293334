"""One picture, a sentence, clicks: for notebooks, web pages and annotation tools."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mmetris.apis import RefSegPredictor
from mmetris.apis.asking import lists_of
from mmetris.utils.image_io import ImageSource

from .click_head import ClickFeatures
from .points import read_clicks, stack_clicks, to_input

SENTENCES_KEPT = 4  # of the picture that is set, whose features wait for the next click


class ClickPredictor(RefSegPredictor):
    """A :class:`~mmetris.apis.RefSegPredictor` that also takes clicks.

    :meth:`set_image` runs the image encoder as far as that goes without a sentence, the first call with a sentence what
    depends on it, and a click only the :class:`ClickHead`.

    Args:
        *args: Those of :class:`~mmetris.apis.RefSegPredictor`. A model without a :class:`ClickHead` answers sentences
            only; None is such a one.
        **kwargs: Likewise.

    Example:
        >>> predictor = ClickPredictor('projects/clicks/configs/clicks_tiny_shapes.py', 'best.pth')
        >>> predictor.set_image('shapes.png')
        >>> first = predictor.predict('the red circle', points=[(40, 25)], labels=[1])
        >>> second = predictor.predict(
        ...     'the red circle', points=[(40, 25), (90, 25)], labels=[1, 0], previous=first['logits'][0]
        ... )
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._features: OrderedDict[str, ClickFeatures] = OrderedDict()

    @property
    def takes_clicks(self) -> bool:
        """Whether the model has a head that corrects masks by clicks."""
        return getattr(self.model, 'click_head', None) is not None

    def set_image(self, image: ImageSource) -> None:
        """See :meth:`RefSegPredictor.set_image`.

        Args:
            image: See there.
        """
        self._features.clear()
        super().set_image(image)

    def reset_image(self) -> None:
        """Forget the picture and free its memory."""
        self._features.clear()
        super().reset_image()

    def predict(
        self,
        texts: str | Sequence[str],
        threshold: float | None = None,
        batch_size: int = 8,
        return_datasamples: bool = False,
        out_hw: tuple[int, int] | None = None,
        boxes: bool = False,
        box_threshold: float | None = None,
        points: Sequence[Sequence[float]] | np.ndarray | None = None,
        labels: Sequence[int] | np.ndarray | None = None,
        previous: np.ndarray | None = None,
    ) -> dict[str, list]:
        """Ask about the picture; and correct the answer by clicks.

        Args:
            texts: One sentence or several; with clicks one, or ``''`` for the clicks alone.
            threshold: See :meth:`RefSegPredictor.predict`.
            batch_size: See there.
            return_datasamples: See there.
            out_hw: See there. Points are always pixels of the picture.
            boxes: See there.
            box_threshold: See there.
            points: (x, y) of each click in pixels of the picture, upright, centres at integers. Their order means
                nothing. Defaults to None: the answer to the sentence.
            labels: 1 for each point that belongs to the mask, 0 for each that does not.
            previous: ``logits`` of the answer before the last click, (h, w). Defaults to None: those of the sentence.

        Returns:
            See :meth:`RefSegPredictor.predict`; with points also ``logits``, (h, w) float32 on the model's own grid,
            the ``previous`` of the next click. A model that decides "not in the picture" does not do so after a click.

        Raises:
            RuntimeError: If no picture is set.
            ValueError: If a sentence is empty, a point is outside of the picture, a label is neither 1 nor 0, or there
                are not as many of both; if clicks are given for several sentences, or ``previous`` without clicks or of
                another size; or if the model takes no clicks.
        """
        if not len(points if points is not None else ()) and not len(labels if labels is not None else ()):
            if previous is not None:
                raise ValueError('previous is what the last click corrects, but there are no points')
            return super().predict(texts, threshold, batch_size, return_datasamples, out_hw, boxes, box_threshold)
        if not self.takes_clicks:
            config = self.asker.config_name or type(self.model).__name__
            raise ValueError(
                f'{config} takes no points, since its model has no click_head: use one of projects/clicks/configs, for '
                'example clicks_tiny_shapes.py'
            )
        if self._encoded is None:
            raise RuntimeError('no image: call set_image first')
        if not isinstance(texts, str):
            if len(texts) != 1:
                raise ValueError(f'clicks belong to one sentence, but there are {len(texts)}')
            texts = texts[0]
        least = self.threshold if threshold is None else self.asker.check_threshold(threshold)
        least_score = self.asker.check_box_threshold(box_threshold)
        picture = self._encoded.samples[0]
        clicks = read_clicks(
            points if points is not None else (), labels if labels is not None else (), tuple(picture.ori_shape[:2])
        )
        text = self.asker.check_texts(texts)[0] if texts else ''
        features = self._features_of(text)
        with torch.no_grad():
            before = None if previous is None else self._check_previous(previous, features)
            logits = self.model.click_head(
                features, *stack_clicks([to_input(clicks, picture.metainfo)], self.asker.device), before
            )
            samples = self.asker.samples_of(self._encoded, [text], [0], out_hw)
            sample = self.model.postprocess_result(logits, samples, features.input_hw)[0].cpu()
        # Of a sentence with clicks nothing decides that it is not in the picture.
        lists = lists_of(None, boxes=boxes)
        result: dict[str, Any] = dict(texts=[text], **{name: [] for name in lists})
        self.asker.append(result, sample, least, least_score)
        result['logits'] = [logits[0, 0].float().cpu().numpy()]
        if self.note is not None:
            result['notes'] = [self.note]
        if return_datasamples:
            result['data_samples'] = [sample]
        return result

    @torch.no_grad()
    def _features_of(self, text: str) -> ClickFeatures:
        """What clicks on the answer to a sentence are decoded from, of the last few sentences."""
        assert self._encoded is not None  # Who asks has looked.
        if text not in self._features:
            samples = self.asker.samples_of(self._encoded, [text], [0])
            tokens = self.asker.tokens_of([text], samples)
            self._features[text] = self.model.click_features(
                self._encoded.inputs, tokens, tokens.new_zeros(1), self._encoded.prefix
            )
            while len(self._features) > SENTENCES_KEPT:
                self._features.popitem(last=False)
        self._features.move_to_end(text)
        return self._features[text]

    @staticmethod
    def _check_previous(previous: np.ndarray, features: ClickFeatures) -> torch.Tensor:
        before = torch.as_tensor(np.asarray(previous), dtype=torch.float32, device=features.logits.device)
        if before.shape != features.logits.shape[-2:]:
            raise ValueError(
                f'previous has size {tuple(before.shape)}, but the logits of this model on this picture have '
                f'{tuple(features.logits.shape[-2:])}: give "logits" of the answer before'
            )
        if not torch.isfinite(before).all():
            raise ValueError('previous has values that are not finite')
        return before[None, None]
