"""ETRIS, frozen, with a head that corrects its masks by clicks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmseg.structures import SegDataSample
from torch import Tensor

from mmetris.models import ReferringSegmentor
from mmetris.models.decode_heads.mask_prediction import at_input_size
from mmetris.models.necks import ImagePrefix
from mmetris.models.trunk.sharing import distinct_images
from mmetris.registry import MODELS
from mmetris.structures import BridgedFeatures
from mmetris.utils.autocast import autocast_to

from .click_head import ClickFeatures, ClickHead
from .points import Click, stack_clicks, to_input
from .simulation import next_click


@MODELS.register_module()
class ClickSegmentor(ReferringSegmentor):
    """A :class:`~mmetris.models.ReferringSegmentor` whose masks clicks correct.

    Only the :class:`ClickHead` is trained, on clicks that are simulated: after each one the next is put where the mask
    is most wrong (:func:`~.simulation.next_click`). Everything else is frozen, weights and statistics, so that
    sentences alone are answered as by the model that was loaded (``load_from``). A share of the sentences is left out
    in training, so that clicks alone suffice, too: without a sentence the mask is empty before the first click.

    A click overrules "not in the picture" of a :class:`~mmetris.models.NoTargetHead`, which speaks of the sentence.

    Args:
        backbone: Config of the image encoder.
        text_encoder: Config of the text encoder.
        neck: Config of the Bridger.
        decode_head: Config of the :class:`~mmetris.models.ETRISHead`.
        click_head: Config of the :class:`ClickHead`.
        num_clicks: Clicks of each sample in a training step; each has its loss. Defaults to 3.
        wordless_share: Share of the samples that are trained without sentence, 0..1. Defaults to 0.2.
        afresh_share: Share of clicks in training that see the answer to the sentence instead of the mask before them,
            as when all clicks are given at once, 0..1. Defaults to 0.2.
        **kwargs: The other arguments of :class:`~mmetris.models.ReferringSegmentor`. ``test_cfg.simulated_clicks``
            (default 0) is the number of clicks that predictions simulate; they need the truth at the original size and
            leave ``click_masks`` for the :class:`ClickMetric`. ``test_cfg.wordless=True`` leaves all sentences out.

    Raises:
        ValueError: If a share is not in 0..1 or a number of clicks is negative.
    """

    test_options = ReferringSegmentor.test_options | {'simulated_clicks', 'wordless'}

    def __init__(
        self,
        backbone: Mapping,
        text_encoder: Mapping,
        neck: Mapping,
        decode_head: Mapping,
        click_head: Mapping,
        num_clicks: int = 3,
        wordless_share: float = 0.2,
        afresh_share: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, text_encoder, neck, decode_head, **kwargs)
        for name, share in (('wordless_share', wordless_share), ('afresh_share', afresh_share)):
            if not 0 <= share <= 1:
                raise ValueError(f'{name}={share} must be between 0 and 1')
        self.num_test_clicks: int = self.test_cfg.get('simulated_clicks', 0)
        if num_clicks < 1 or self.num_test_clicks < 0:
            raise ValueError(
                f'num_clicks={num_clicks} must be positive, and test_cfg.simulated_clicks={self.num_test_clicks} not '
                'negative'
            )
        self.num_clicks, self.wordless_share, self.afresh_share = num_clicks, wordless_share, afresh_share
        self.requires_grad_(False)
        self.click_head: ClickHead = MODELS.build(
            dict(map_channels=self.decode_head.channels, sentence_channels=self.text_encoder.output_dims)
            | dict(click_head)
        )

    def train(self, mode: bool = True) -> ClickSegmentor:
        """Training mode for the head of clicks alone."""
        super().train(mode)
        for name, part in self.named_children():
            if name != 'click_head':
                part.eval()
        return self

    def click_features(
        self,
        images: Tensor,
        tokens: Tensor,
        image_index: Tensor | None = None,
        prefix: ImagePrefix | None = None,
    ) -> ClickFeatures:
        """All that comes before the first click; its ``logits`` are those of :meth:`forward_logits`.

        Args:
            images: (I, 3, H, W) normalised images.
            tokens: (B, L) token ids. Those of an empty sentence mean that there is none.
            image_index: (B,) row of ``images`` that each sentence speaks of. Defaults to None: row b.
            prefix: What :meth:`encode_images` made of the images. Defaults to None: it is computed.
        """
        with torch.no_grad(), autocast_to(self.test_cfg.get('dtype'), tokens.device.type):
            features = self.bridge(images if prefix is None else prefix, tokens, image_index)
        return self._click_features(features, images, tokens, image_index)

    def _click_features(
        self, features: BridgedFeatures, images: Tensor, tokens: Tensor, image_index: Tensor | None
    ) -> ClickFeatures:
        with torch.no_grad(), autocast_to(self.test_cfg.get('dtype'), tokens.device.type):
            aligned = self.decode_head.align_globally(self.decode_head.align_hierarchically(features), features)
            logits = self.decode_head.projector(aligned, features.sentence)
        wordless = (tokens == self.tokenize([''], tokens.shape[1]).to(tokens)).all(1)
        # In float32: light, and without it a training in bfloat16 would round the correction.
        return self.click_head.prepare(
            images.float(), aligned.float(), features.sentence.float(), logits.float(), image_index, wordless
        )

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Losses of clicks on a batch.

        Args:
            inputs: (B, 3, H, W) normalised images.
            data_samples: One for each image, with ``tokens`` or ``expression`` and ``gt_sem_seg``.

        Returns:
            ``loss_clicks``, the mean over the clicks, and the IoU of the batch in percent after 0 and after all clicks,
            for the log.
        """
        # The trunk's generators: as reproducible as everything else in a training step.
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        tokens = self.tokens_of(data_samples, inputs.device)
        is_wordless = torch.from_numpy(rng.random(len(tokens)) < self.wordless_share).to(tokens.device)
        tokens = torch.where(is_wordless[:, None], self.tokenize([''], tokens.shape[1]).to(tokens), tokens)
        images, image_index = distinct_images(inputs, data_samples)
        features = self.click_features(images, tokens, image_index)
        true = [sample.gt_sem_seg.data[0].cpu().numpy() for sample in data_samples]
        clicks: list[list[Click]] = [[] for _ in true]
        losses = dict(iou_0=self.decode_head.loss_by_feat(features.logits, data_samples)['iou'])
        logits, values = features.logits, []
        for _ in range(self.num_clicks):
            for row, mask in enumerate(self._masks_at_input(logits, features.input_hw)):
                click = next_click(mask, true[row], clicks[row], rng)
                clicks[row] += [] if click is None else [click]
            points, labels = stack_clicks(clicks, inputs.device)
            if not points.shape[1]:  # Nothing is wrong in the whole batch; the graph needs a click all the same.
                points, labels = points.new_zeros(len(true), 1, 2), labels.new_full((len(true), 1), -1)
            afresh = torch.from_numpy(rng.random(len(true)) < self.afresh_share).to(inputs.device)
            previous = torch.where(afresh[:, None, None, None], features.logits, logits.detach())
            logits = self.click_head(features, points, labels, previous)
            found = self.decode_head.loss_by_feat(logits, data_samples)
            values.append(sum(value for name, value in found.items() if 'loss' in name))
        losses['loss_clicks'] = torch.stack(values).mean()
        losses[f'iou_{self.num_clicks}'] = found['iou']
        return losses

    def _masks_at_input(self, logits: Tensor, input_hw: tuple[int, int]) -> np.ndarray:
        """Masks (B, H, W) bool of the network's input."""
        probability = at_input_size(
            logits.detach().float().sigmoid(),
            input_hw,
            self.test_cfg.get('corner_aligned', False),
            mode='bilinear',
        )
        return (probability.squeeze(1) > self.decode_head.threshold).cpu().numpy()

    def predict(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> list[SegDataSample]:
        """The answers to sentences, and with ``test_cfg.simulated_clicks`` also the masks after clicks.

        Args:
            inputs: (B, 3, H, W) normalised images.
            data_samples: One for each image.

        Returns:
            The samples as :class:`~mmetris.models.ReferringSegmentor` completes them, by the sentences alone; with
            simulated clicks also ``click_masks`` (clicks + 1, H, W) bool, the masks after 0, 1, 2... clicks, and
            ``clicks`` (K, 3), x, y and label in pixels of the original image. A mask without mistake gets no more
            clicks.
        """
        if not self.num_test_clicks:
            return super().predict(inputs, data_samples)
        tokens = self.tokens_of(data_samples, inputs.device)
        assert data_samples is not None  # Their tokens were just read.
        if self.test_cfg.get('wordless', False):
            tokens = self.tokenize([''], tokens.shape[1]).to(tokens).expand_as(tokens)
        images, image_index = distinct_images(inputs, data_samples)
        with autocast_to(self.test_cfg.get('dtype'), inputs.device.type):
            bridged = self.bridge(images, tokens, image_index)
        input_hw = (inputs.shape[-2], inputs.shape[-1])
        samples = self.decode_head.predict(bridged, data_samples, input_hw, self.test_cfg)
        features = self._click_features(bridged, images, tokens, image_index)
        answers = [_mask_of(sample) for sample in samples]
        if self.test_cfg.get('wordless', False):
            answers = self._masks(features.logits, samples, input_hw)
        self._simulate(features, samples, answers)
        return samples

    def _simulate(
        self, features: ClickFeatures, samples: Sequence[SegDataSample], answers: Sequence[np.ndarray]
    ) -> None:
        """Click on each sample's mask at the original size, and note masks and clicks in it."""
        if missing := [sample for sample in samples if 'gt_sem_seg' not in sample]:
            raise ValueError(
                f'{missing[0].metainfo.get("img_path", "a sample")} has no truth, which test_cfg.simulated_clicks needs'
            )
        true = [sample.gt_sem_seg.data[0].cpu().numpy() for sample in samples]
        clicks: list[list[Click]] = [[] for _ in samples]
        rounds, logits = [list(answers)], features.logits
        for _ in range(self.num_test_clicks):
            for row, mask in enumerate(rounds[-1]):
                if mask.shape != true[row].shape:
                    raise ValueError(
                        f'{samples[row].metainfo.get("img_path", "a sample")}: the mask has size {mask.shape} and the '
                        f'truth {true[row].shape}; put LoadAnnotations after the resizing in the test pipeline'
                    )
                click = next_click(mask, true[row], clicks[row])
                clicks[row] += [] if click is None else [click]
            on_input = [to_input(row, sample.metainfo) for row, sample in zip(clicks, samples)]
            refined = self.click_head(features, *stack_clicks(on_input, logits.device), logits)
            masks = self._masks(refined, samples, features.input_hw)
            # Who has had no click keeps the answer, which "not in the picture" may have emptied.
            rounds.append([mask if row else answer for mask, row, answer in zip(masks, clicks, answers)])
            logits = refined
        for sample, row, *masks in zip(samples, clicks, *rounds):
            sample.click_masks = torch.from_numpy(np.stack(masks))
            sample.clicks = torch.tensor(row).reshape(-1, 3)

    def _masks(self, logits: Tensor, samples: Sequence[SegDataSample], input_hw: tuple[int, int]) -> list[np.ndarray]:
        """Masks (H, W) bool at the size of the original images."""
        own = [sample.new(data={}) for sample in samples]
        return [_mask_of(sample) for sample in self.decode_head.predict_by_feat(logits, own, input_hw, self.test_cfg)]


def _mask_of(sample: SegDataSample) -> np.ndarray:
    return sample.pred_sem_seg.data[0].cpu().numpy() == 1
