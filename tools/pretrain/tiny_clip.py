"""The tiny CLIP: its architectures, its letterboxed input, and its export file.

It is an ordinary ``open_clip.CLIP`` with CLIP's own tokenizer, small enough to travel with the sources.
"""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call

from mmetris.models.layers.position_embedding import resize_position_embedding

# The longer side of Shapes images, and a multiple of a ResNet's 32.
IMAGE_SIZE = 128

# The vocabulary is CLIP's; at width 48 its embedding is 4.7 MB of the ResNet's 7.7 MB in half precision.
_TEXT_CFG = dict(context_length=77, vocab_size=49408, width=48, heads=4, layers=4)

ARCHS: dict[str, dict] = {
    'vit': dict(
        embed_dim=64,
        quick_gelu=True,
        vision_cfg=dict(image_size=IMAGE_SIZE, patch_size=16, width=128, head_width=32, layers=4),
        text_cfg=_TEXT_CFG,
    ),
    'resnet': dict(
        embed_dim=64,
        quick_gelu=True,
        vision_cfg=dict(image_size=IMAGE_SIZE, width=16, head_width=32, layers=[1, 1, 1, 1]),
        text_cfg=_TEXT_CFG,
    ),
}


def arch_config(arch: str) -> dict:
    """Return the configuration of an architecture; ``open_clip.model.CLIP(**config)`` builds it.

    Raises:
        ValueError: If there is no such architecture.
    """
    if arch not in ARCHS:
        raise ValueError(f'unknown arch {arch!r}: use one of {sorted(ARCHS)}')
    return ARCHS[arch]


def _grid_waves(side: int, width: int) -> Tensor:
    """(side * side, width) sines and cosines of the columns and rows of a grid, in [-0.5, 0.5]."""
    frequency = 100.0 ** -(torch.arange(width // 4) / (width // 4))
    waves = torch.arange(side)[:, None] * frequency
    waves = 0.5 * torch.cat([waves.sin(), waves.cos()], 1)
    columns, rows = waves.expand(side, -1, -1), waves[:, None].expand(-1, side, -1)
    return torch.cat([columns, rows], 2).flatten(0, 1)


def add_waves(positions: nn.Parameter) -> None:
    """Add waves to the positions of a square grid, (1 + side * side, width), that follow a class token's."""
    with torch.no_grad():
        positions[1:] += _grid_waves(math.isqrt(len(positions) - 1), positions.shape[1])


def build_clip(config: dict) -> CLIP:
    """Build a randomly initialised CLIP. The configuration is copied, so ``CLIP`` cannot change it.

    A ViT's positions start as waves instead of noise: trained on labels it then tells places within a hundred steps,
    where with CLIP's own start it had not begun to after 160.
    """
    model = CLIP(**json.loads(json.dumps(config)))
    if 'patch_size' in config['vision_cfg']:
        with torch.no_grad():
            model.visual.positional_embedding[1:] = 0
        add_waves(model.visual.positional_embedding)
    return model


def encode_image(model: CLIP, images: Tensor) -> Tensor:
    """``model.encode_image`` for images (S, 3, H, W) of any size that is a multiple of 32: (S, embed_dim).

    A ResNet's attention pool has positions for one grid; for another they are resized. A ViT takes its own size only.
    """
    visual = model.visual
    grid_hw = tuple(size // 32 for size in images.shape[-2:])
    if not hasattr(visual, 'attnpool') or images.shape[-1] == visual.image_size == images.shape[-2]:
        return visual(images)
    positions = resize_position_embedding(visual.attnpool.positional_embedding, grid_hw)
    return functional_call(visual, {'attnpool.positional_embedding': positions}, images)


def encode_text(model: CLIP, tokens: Tensor) -> Tensor:
    """``model.encode_text`` for tokens (C, L) cut to any L up to the context length: (C, embed_dim).

    The text transformer is causal, so padding behind [EOS] changes nothing but the time it takes.
    """
    length = tokens.shape[1]
    features = model.token_embedding(tokens) + model.positional_embedding[:length]
    features = model.transformer(features, attn_mask=model.attn_mask[:length, :length])
    last = tokens.argmax(-1)  # [EOS] has the largest id
    features = model.ln_final(features[torch.arange(len(tokens)), last])
    return features @ model.text_projection


def letterbox(image: np.ndarray, size: int = IMAGE_SIZE) -> np.ndarray:
    """Fit an (H, W, 3) uint8 RGB image in the middle of a (size, size, 3) one whose border is CLIP's mean colour."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    height, width = round(height * scale), round(width * scale)
    boxed = np.empty((size, size, 3), np.uint8)
    boxed[:] = np.round(np.array(OPENAI_DATASET_MEAN) * 255)
    top, left = (size - height) // 2, (size - width) // 2
    boxed[top : top + height, left : left + width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    return boxed


def normalise(images: np.ndarray) -> Tensor:
    """(S, H, W, 3) uint8 RGB to (S, 3, H, W) float with CLIP's mean and standard deviation."""
    mean, std = (torch.tensor(value) * 255 for value in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return torch.from_numpy(images).float().sub_(mean).div_(std).permute(0, 3, 1, 2)


class PatchChoice(nn.Module):
    """Drop the duller patches of a training picture, in the place of open_clip's random ``PatchDropout``.

    A patch's rank is its mean colour's saturation with noise added: the objects of Shapes are vivid and their
    backgrounds grey, so a third of the patches holds nearly all there is to see, at a third of the cost.

    Shape:
        (S, 1 + N, C) -> (S, 1 + keep, C), the class token first; unchanged in eval mode or while ``keep`` is None.
    """

    noise = 25.0  # of the rank, in grey levels: part of the background is always seen

    def __init__(self) -> None:
        super().__init__()
        self.keep: int | None = None
        self._kept: Tensor | None = None

    def look_at(self, images: np.ndarray, patch_size: int) -> None:
        """Choose the patches of the next batch of (S, H, W, 3) uint8 pictures."""
        if self.keep is not None:
            count, height, width = images.shape[:3]
            cells = images.reshape(count, height // patch_size, patch_size, width // patch_size, patch_size, 3)
            colour = torch.from_numpy(cells[:, :, ::2, :, ::2].mean((2, 4), dtype=np.float32)).flatten(1, 2)
            rank = colour.amax(-1) - colour.amin(-1)
            self._kept = (rank + self.noise * torch.randn_like(rank)).topk(self.keep).indices

    def forward(self, tokens: Tensor) -> Tensor:
        """Keep the class token and the patches chosen by ``look_at``."""
        if not self.training or self.keep is None:
            return tokens
        kept = self._kept[..., None].expand(-1, -1, tokens.shape[-1])
        return torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, kept)], 1)


class UsedWords(nn.Module):
    """The rows of CLIP's token embedding that a training can reach, in its place: the optimiser skips the other 99%.

    Args:
        embedding: The full embedding; an export's other rows are zero, so that words never seen are all alike and it
            compresses well.
        used: Token ids that occur.
    """

    def __init__(self, embedding: nn.Embedding, used: Sequence[int]) -> None:
        super().__init__()
        used = torch.tensor(sorted(set(used)))
        row = torch.full((embedding.num_embeddings,), -1)
        row[used] = torch.arange(len(used))
        self.weight = nn.Parameter(embedding.weight.detach()[used].clone())
        self.register_buffer('used', used)
        self.register_buffer('row', row)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed token ids, any shape; an id that was not declared as used is an ``IndexError``."""
        return nn.functional.embedding(self.row[tokens], self.weight)

    def filled(self) -> Tensor:
        """The full embedding: the trained rows, and zeros."""
        full = self.weight.new_zeros(len(self.row), self.weight.shape[1])
        return full.index_copy(0, self.used, self.weight.detach())


def save_clip(path: Path, model: CLIP, config: dict, **notes: object) -> None:
    """Write the weights in half precision under CLIP's own keys; the configuration and notes go to the metadata."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value for key, value in model.state_dict().items() if not key.startswith('token_embedding.')}
    embedding = model.token_embedding
    state['token_embedding.weight'] = embedding.filled() if isinstance(embedding, UsedWords) else embedding.weight
    state = {
        key: value.detach().to(torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for key, value in state.items()
    }
    metadata = {
        'format': 'pt',
        'arch': json.dumps(config, sort_keys=True),
        'quick_gelu': json.dumps(config['quick_gelu']),
        **{key: str(value) for key, value in notes.items()},
    }
    partial = path.with_name(path.name + '.partial')
    save_file(state, str(partial), metadata=metadata)
    os.replace(partial, path)


def load_clip(path: Path) -> tuple[CLIP, dict]:
    """Rebuild an exported CLIP in single precision and eval mode, and return it with the file's metadata."""
    with safe_open(str(path), 'pt') as file:
        metadata = file.metadata()
        state = {key: file.get_tensor(key) for key in file.keys()}
    model = build_clip(json.loads(metadata['arch']))
    model.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in state.items()})
    return model.eval(), metadata
