"""Zero-shot CLIP (Radford et al. 2021, Sec. 3.1): the baseline that a trained classifier stands on, and beside.

    images --> frozen image encoder --> CLIP's own pool ---------> unit vector --+
                                                                                 +--> exp(logit_scale) * cosine
    names, in templates --> text encoder --> unit vectors, mean --> unit vector --+

Axes: B images, M names, T templates, C' width of the shared space.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmetris.models import ClassText
from mmetris.models.clip.encoder import ClipEncoder
from mmetris.models.clip.weights import load_clip_weights
from mmetris.models.layers.shortcut import is_unaltered, structure_of
from mmetris.models.necks import ImagePrefix
from mmetris.utils.tensor_memo import TensorMemo

LOGIT_SCALE = math.log(1 / 0.07)
"""With which CLIP's training starts; for encoders with random weights."""


class ZeroShotCLIP(nn.Module):
    """What CLIP itself says of images and names, on a model's frozen encoders, which it does not own.

    Attributes:
        logit_scale: Buffer (), logarithm of the factor of CLIP's training; checkpoints have it.
    """

    logit_scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('logit_scale', torch.tensor(LOGIT_SCALE))
        self._vectors = TensorMemo()

    @staticmethod
    def check_frozen(*encoders: ClipEncoder) -> None:
        """Check that encoders stay CLIP's.

        Args:
            *encoders: Image and text encoder.

        Raises:
            ValueError: If one is tuned.
        """
        for encoder in encoders:
            if encoder.tuning or not encoder.norm_eval or any(one.requires_grad for one in encoder.parameters()):
                raise ValueError(
                    f'the {encoder.architecture} is tuned, so that it is no zero-shot CLIP any more: set '
                    'with_zero_shot=False, or leave it frozen'
                )

    def read_logit_scale(self, encoder: ClipEncoder) -> None:
        """Take the factor from an encoder's file of weights, where it has one."""
        if encoder.clip_checkpoint is not None:
            scale = load_clip_weights(encoder.clip_checkpoint, encoder.arch).logit_scale
            if scale is None:
                raise ValueError(f'{encoder.clip_checkpoint} has no logit_scale, which zero-shot CLIP needs')
            self.logit_scale.fill_(scale)

    def name_vectors(self, text_encoder: ClassText) -> Tensor:
        """Vectors (M, C') of a vocabulary's names, of length 1, computed once for each vocabulary."""
        parameters = list(text_encoder.parameters())
        text_encoder.ensure_pretrained()
        if not is_unaltered(text_encoder):
            return self._encode(text_encoder)
        key = (text_encoder.vocabulary, structure_of(text_encoder))
        return self._vectors.get(key, parameters, lambda: self._encode(text_encoder))

    @staticmethod
    def _encode(text_encoder: ClassText) -> Tensor:
        with torch.autocast(text_encoder.tower.positional_embedding.device.type, enabled=False):
            sentences = torch.cat([text_encoder(chunk)[1] for chunk in text_encoder.prompt_tokens()])
        by_name = F.normalize(sentences, dim=-1).unflatten(0, (-1, len(text_encoder.vocabulary.templates)))
        return F.normalize(by_name.mean(dim=1), dim=-1)

    @staticmethod
    def image_vectors(backbone: ClipEncoder, prefix: ImagePrefix) -> Tensor:
        """CLIP's feature (B, C') of images, of length 1.

        Args:
            backbone: Image encoder in stages, with ``pool``.
            prefix: What it has computed of the images so far, without a Bridger.
        """
        state = prefix.state
        for stage in range(prefix.stage + 1, backbone.num_stages + 1):
            state = backbone.stage(stage, state)
        return F.normalize(backbone.pool(state), dim=-1)

    @torch.no_grad()
    def forward(self, backbone: ClipEncoder, text_encoder: ClassText, prefix: ImagePrefix) -> Tensor:
        """Logits (B, M) of images and the names of the text encoder's vocabulary.

        Args:
            backbone: See :meth:`image_vectors`.
            text_encoder: CLIP's, with the names.
            prefix: See :meth:`image_vectors`.
        """
        cosines = self.image_vectors(backbone, prefix).float() @ self.name_vectors(text_encoder).T
        return self.logit_scale.exp() * cosines
