"""A toy CLIP asked without training, and the same computed plainly from its weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mmetris import tokenize
from tests import toy

CLASSES = ['dog', ['cat', 'the kitten'], 'grass']
TEMPLATES = ['a {}.', 'a photo of the {}', '{} at night']


def model_cfg(kind: str = 'vit', backbone: dict | None = None, **changes) -> dict:
    """Config of a tiny TrainingFreeSegmentor; ``backbone`` changes single arguments of that."""
    kinds = dict(vit='DenseCLIPViT', resnet='DenseCLIPResNet')
    return (
        dict(
            type='TrainingFreeSegmentor',
            data_preprocessor=dict(type='RefSegDataPreProcessor', size_divisor=32 if kind == 'resnet' else 8),
            dual_encoder=dict(arch=toy.ARCHS[kind]),
            backbone=dict(type=kinds[kind]) | (backbone or {}),
            text_encoder=dict(type='ClassVectors'),
            vocabulary=dict(classes=CLASSES, templates=TEMPLATES),
        )
        | changes
    )


def build(kind: str = 'vit', seed: int = 0, **changes) -> torch.nn.Module:
    """Build it, with all weights random: none is 0 or 1, as it is in a new Transformer's biases and norms."""
    model = toy.build(model_cfg(kind, **changes), seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def plain_norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """LayerNorm, written out."""
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f'{name}.weight'] + weights[f'{name}.bias']


def plain_linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """A linear layer, written out."""
    return torch.einsum('...i,oi->...o', x, weights[f'{name}.weight']) + weights[f'{name}.bias']


def plain_attention(kind: str, q: Tensor, k: Tensor, v: Tensor, grid_hw: tuple[int, int], std: float) -> Tensor:
    """One head of one image: q, k, v (N, c), the class token first -> (N, c). ``'clip'`` is CLIP's own."""

    def weights_of(scores: Tensor) -> Tensor:
        powers = (scores - scores.amax(1, keepdim=True)).exp()
        return powers / powers.sum(1, keepdim=True)

    scale = math.sqrt(q.shape[1])
    if kind == 'maskclip':
        return v
    if kind == 'clip':
        return weights_of(q @ k.T / scale) @ v
    if kind == 'sclip':
        return (weights_of(q @ q.T / scale) + weights_of(k @ k.T / scale)) @ v
    if kind == 'clearclip':
        return weights_of(q @ q.T / scale) @ v
    scores = k @ k.T / scale
    for i in range(1, len(k)):
        for j in range(1, len(k)):
            (row, column), (other_row, other_column) = divmod(i - 1, grid_hw[1]), divmod(j - 1, grid_hw[1])
            distance = (row - other_row) ** 2 + (column - other_column) ** 2
            scores[i, j] += math.exp(-distance / (2 * std**2))
    return weights_of(scores) @ v


def plain_vit(
    tower: torch.nn.Module, image: Tensor, kind: str, keep_residual: bool, std: float = 5.0, heads: int = 4
) -> Tensor:
    """Map (C', h, w) of one image (3, H, W) of CLIP's own size, from the state dict of a ViT with QuickGELU."""
    weights = tower.state_dict()
    patch = weights['conv1.weight'].shape[-1]
    grid_hw = image.shape[1] // patch, image.shape[2] // patch
    rows = image.unfold(1, patch, patch).unfold(2, patch, patch)  # (3, h, w, patch, patch)
    patches = torch.einsum('chwij,ocij->hwo', rows, weights['conv1.weight']).flatten(0, 1)
    x = torch.cat([weights['class_embedding'][None], patches]) + weights['positional_embedding']
    x = plain_norm(x, weights, 'ln_pre')
    depth = 1 + max(int(key.split('.')[2]) for key in weights if key.startswith('transformer.resblocks'))
    for index in range(depth):
        block = {
            key.removeprefix(f'transformer.resblocks.{index}.'): value
            for key, value in weights.items()
            if key.startswith(f'transformer.resblocks.{index}.')
        }
        projected = plain_norm(x, block, 'ln_1') @ block['attn.in_proj_weight'].T + block['attn.in_proj_bias']
        q, k, v = (part.chunk(heads, dim=1) for part in projected.chunk(3, dim=1))
        own = kind if index == depth - 1 else 'clip'
        attended = torch.cat([plain_attention(own, *head, grid_hw, std) for head in zip(q, k, v)], dim=1)
        attended = plain_linear(attended, block, 'attn.out_proj')
        if own == kind and not keep_residual:
            x = attended
            continue
        x = x + attended
        hidden = plain_linear(plain_norm(x, block, 'ln_2'), block, 'mlp.c_fc')
        hidden = hidden / (1 + torch.exp(-1.702 * hidden))
        x = x + plain_linear(hidden, block, 'mlp.c_proj')
    return (plain_norm(x[1:], weights, 'ln_post') @ weights['proj']).T.unflatten(1, grid_hw)


def plain_resnet(tower: torch.nn.Module, image: Tensor) -> Tensor:
    """Map (C', h, w) of one image: the pool's two projections as 1x1 convolutions of what the layers give."""
    x = tower.stem(image[None])
    for layer in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
        x = layer(x)
    for name in ('v_proj', 'c_proj'):
        layer = getattr(tower.attnpool, name)
        x = F.conv2d(x, layer.weight[:, :, None, None], layer.bias)
    return x[0]


def plain_class_logits(model: torch.nn.Module, feature_map: Tensor, scale: float = 40.0) -> Tensor:
    """Logits (K, h, w) of CLASSES by hand: mean of the templates' vectors, cosine, best name."""
    logits = []
    for names in CLASSES:
        of_names = []
        for name in [names] if isinstance(names, str) else names:
            vectors = [model.text_encoder(tokenize([template.format(name)], 77))[1][0] for template in TEMPLATES]
            mean = sum(vector / vector.norm() for vector in vectors) / len(vectors)
            dots = torch.einsum('chw,c->hw', feature_map, mean)
            of_names.append(scale * dots / feature_map.norm(dim=0) / mean.norm())
        logits.append(torch.stack(of_names).amax(0))
    return torch.stack(logits)
