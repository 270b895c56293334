"""Encoders that are no CLIP: a few convolutions and a few linear maps, with weights of their own in one file each."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mmetris.models import FrozenEncoder, StagedImageEncoder, StagedTextEncoder, StageSpec
from mmetris.registry import MODELS

WORDS = 97  # Words are told apart by a hash into so many.
START, END, PAD = 1, 2, 0


def toy_tokenize(texts: str | list[str], context_length: int = 12) -> Tensor:
    """[start] words [end] padding, (B, context_length); a longer sentence is cut and still ends with [end]."""
    texts = [texts] if isinstance(texts, str) else texts
    tokens = torch.full((len(texts), context_length), PAD)
    for row, text in enumerate(texts):
        ids = [3 + sum(map(ord, word)) % (WORDS - 3) for word in text.lower().split()][: context_length - 2]
        tokens[row, : len(ids) + 2] = torch.tensor([START, *ids, END])
    return tokens


class _FileOfWeights(FrozenEncoder):
    """Weights come from a state dict in a file."""

    def load_tower(self, source: str) -> None:
        state = torch.load(source, weights_only=True)
        with torch.no_grad():
            for name, tensor in self.pretrained.tensors().items():
                tensor.copy_(state[name])


@MODELS.register_module()
class ToyImageEncoder(StagedImageEncoder, _FileOfWeights):
    """Three convolutions of stride 2 on a patch of 4; its state is a dict, with the size of the image in it."""

    num_stages = 3
    out_stages = (1, 2, 3)
    size_divisor = 32

    def __init__(self, source: str | None = None, width: int = 8, **kwargs) -> None:
        widths = [width, 2 * width, 4 * width]
        tower = nn.ModuleDict(
            dict(
                patches=nn.Conv2d(3, width, 4, stride=4),
                stages=nn.ModuleList(
                    nn.Sequential(nn.Conv2d(before, after, 2, stride=2), nn.BatchNorm2d(after), nn.ReLU())
                    for before, after in zip([width, *widths], widths)
                ),
                last=nn.Conv2d(widths[-1], 12, 1),
            )
        )
        super().__init__(tower, f'toy image encoder of width {width}', source, **kwargs)
        self.stage_specs = tuple(StageSpec(width, stride) for width, stride in zip(widths, (8, 16, 32)))
        self.tail_spec = StageSpec(12, 32)

    def stem(self, images: Tensor) -> dict:
        self.check_size(images)
        self.ensure_pretrained()
        return dict(image_hw=tuple(images.shape[-2:]), map=self.tower['patches'](images))

    def stage(self, index: int, state: dict) -> dict:
        return {**state, 'map': self.tower['stages'][index - 1](state['map'])}

    def feature_map(self, state: dict) -> Tensor:
        assert state['map'].shape[-1] * self.stage_specs[0].stride <= state['image_hw'][1]
        return state['map']

    def inject(self, state: dict, update: Tensor) -> dict:
        return {**state, 'map': state['map'] + update}

    def tail(self, state: dict) -> Tensor:
        return self.tower['last'](state['map'])


@MODELS.register_module()
class ToyTextEncoder(StagedTextEncoder, _FileOfWeights):
    """A table of words and three linear maps; the sentence is the mean of its words."""

    num_stages = 3
    out_stages = (1, 2, 3)
    embed_dims = 16
    output_dims = 12
    context_length = 12
    tokenizer = staticmethod(toy_tokenize)

    def __init__(self, source: str | None = None, **kwargs) -> None:
        tower = nn.ModuleDict(
            dict(
                words=nn.Embedding(WORDS, self.embed_dims),
                stages=nn.ModuleList(nn.Linear(self.embed_dims, self.embed_dims) for _ in range(self.num_stages)),
                last=nn.Linear(self.embed_dims, self.output_dims),
            )
        )
        super().__init__(tower, 'toy text encoder', source, **kwargs)

    @staticmethod
    def end_position(tokens: Tensor) -> Tensor:
        return (tokens == END).to(torch.int32).argmax(dim=1)

    def padding_mask(self, tokens: Tensor) -> Tensor:
        return tokens == PAD

    def embed(self, tokens: Tensor) -> Tensor:
        self.ensure_pretrained()
        return self.tower['words'](tokens)

    def stage(self, index: int, words: Tensor) -> Tensor:
        return words + torch.tanh(self.tower['stages'][index - 1](words))

    def tail(self, words: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        kept = (~self.padding_mask(tokens)).unsqueeze(2).to(words.dtype)
        return words, self.tower['last']((words * kept).sum(dim=1) / kept.sum(dim=1))


def save_toy_weights(folder: Path, seed: int = 7) -> dict[str, str]:
    """Write weights of both; returns their files under ``'image'`` and ``'text'``."""
    torch.manual_seed(seed)
    files = {}
    for name, encoder in (('image', ToyImageEncoder()), ('text', ToyTextEncoder())):
        state = encoder.tower.state_dict()
        for key, value in state.items():
            if key.endswith('running_mean'):
                value.normal_(std=0.1)
        files[name] = str(folder / f'{name}.pth')
        torch.save(state, files[name])
    return files


def toy_encoders_cfg(files: dict[str, str], **changes) -> dict:
    """Config of a ReferringSegmentor on these encoders."""
    return (
        dict(
            type='ReferringSegmentor',
            data_preprocessor=dict(type='RefSegDataPreProcessor', size_divisor=32),
            backbone=dict(type='ToyImageEncoder', source=files['image']),
            text_encoder=dict(type='ToyTextEncoder', source=files['text']),
            neck=dict(type='Bridger', embed_dims=8, num_heads=2, ffn_dims=16),
            decode_head=dict(
                type='ETRISHead', channels=16, num_heads=2, global_alignment=dict(num_layers=1, ffn_dims=16)
            ),
        )
        | changes
    )
