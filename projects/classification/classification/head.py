"""From bridged features to a logit for each name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from mmetris.registry import MODELS
from mmetris.structures import BridgedFeatures


@MODELS.register_module()
class NamePoolingHead(BaseModule):
    """How well names fit an image: cosines of CLIP's pooled feature, and of what each name finds in the map.

    With g the pooled feature, p_j the last map's at position j and s_k the feature of name k, all bridged and of length
    1, the second cosine is that of a name's own pooling (its queries are the names, so no weights are added)

        v_k = sum_j softmax_j(b * p_j . s_k) p_j        logit_k = a * (g . s_k + w * cos(v_k, s_k))

    Learnt are a, b and w, three numbers: the answer has to be in the features, where the Bridger puts it, and any list
    of names can be asked. With w = 0, as at first, and a Bridger that starts with updates of zero, the logits are those
    of CLIP itself, for one template.

    Args:
        in_channels: Widths of the maps, of which the last one is read. The model fills in this and the next three.
        in_strides: Not needed. Defaults to None.
        word_channels: Not needed. Defaults to None.
        sentence_channels: Width of the names' features. Defaults to None: that of the last map.
        logit_scale: The factor a at first. Defaults to 20, between the 14 and the 100 of CLIP's training.
        pool_scale: The factor b at first; 0 would be the mean of the map. Defaults to 10.
        label_smoothing: Share of the target that is spread over all names. Defaults to 0.
        init_cfg: See MMEngine. Defaults to None.

    Raises:
        ValueError: If names and map differ in width, or a factor is not positive.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int] | None = None,
        word_channels: int | None = None,
        sentence_channels: int | None = None,
        logit_scale: float = 20.0,
        pool_scale: float = 10.0,
        label_smoothing: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if sentence_channels not in (None, in_channels[-1]):
            raise ValueError(
                f'the last map has {in_channels[-1]} channels and a name {sentence_channels}: their cosine needs two '
                'encoders of one CLIP'
            )
        for name, value in (('logit_scale', logit_scale), ('pool_scale', pool_scale)):
            if not value > 0:
                raise ValueError(f'{name}={value} must be positive')
        self.label_smoothing = label_smoothing
        self.logit_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))
        self.pool_scale = nn.Parameter(torch.tensor(math.log(pool_scale)))
        self.map_weight = nn.Parameter(torch.zeros(()))

    def forward(self, features: BridgedFeatures, pooled: Tensor) -> Tensor:
        """Logits (B, M) of images and names.

        Args:
            features: Bridged features, with ``sentence`` (B, M, C').
            pooled: (B, C'), CLIP's own pooled feature of the bridged image.
        """
        names = F.normalize(features.sentence, dim=-1)
        pixels = F.normalize(features.maps[-1].flatten(2), dim=1)  # (B, C', N)
        similar = names @ pixels
        found = (self.pool_scale.exp() * similar).softmax(dim=-1) @ pixels.transpose(1, 2)
        in_map = (F.normalize(found, dim=-1) * names).sum(dim=-1)
        in_all = (names @ F.normalize(pooled, dim=-1).unsqueeze(-1)).squeeze(-1)
        return self.logit_scale.exp() * (in_all + self.map_weight * in_map)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy, and the share of right answers for the log.

        Args:
            logits: (B, K).
            labels: (B,) classes, 0 to K - 1.
        """
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        return dict(loss_cls=loss, acc_cls=100.0 * (logits.argmax(dim=1) == labels).float().mean())
