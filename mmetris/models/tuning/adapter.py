"""Adapters: small networks with a bottleneck, in series with modules of a frozen tower or parallel to them."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from mmetris.registry import MODELS

from ..encoders.frozen_encoder import FrozenEncoder
from ..layers.pointwise import PointwiseLinear, pointwise
from .base import TuningMethod
from .places import Place, Places, add_in_series, add_parallel, normalised, places_of

ACTIVATIONS = dict(relu=nn.ReLU, gelu=nn.GELU, silu=nn.SiLU)


class BottleneckMethod(TuningMethod):
    """Base of methods that put one small network at each of their places, between C channels and C / reduction.

    Args:
        places: Where: roles, names or patterns, see :func:`~mmetris.models.tuning.places.places_of`.
        reduction: Width of the input over that of the bottleneck.
        parallel: Whether the networks read what goes into the places, not what comes out of them. A place with another
            module beside it, whose output is added to, is parallel in any case.
        activation: ``'relu'``, ``'gelu'`` or ``'silu'``, in the bottleneck.

    Raises:
        ValueError: If the reduction does not divide a width, or a network in series would have to change it.
    """

    told = ('activation', 'parallel')

    def __init__(
        self, places: Places, reduction: int, parallel: bool, activation: str, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        if activation not in ACTIVATIONS:
            raise ValueError(f'activation={activation!r} of {type(self).__name__} must be one of {tuple(ACTIVATIONS)}')
        if reduction < 1:
            raise ValueError(f'reduction={reduction} of {type(self).__name__} must be positive')
        self.places, self.reduction, self.parallel, self.activation = (
            normalised(places),
            reduction,
            parallel,
            activation,
        )
        self.branches = nn.ModuleDict()

    def bind(self, encoder: FrozenEncoder) -> None:
        for place in places_of(encoder, self.places):
            parallel = self.parallel or place.end is not place.start
            out_channels = place.out_channels
            in_channels = place.in_channels if parallel else out_channels
            if in_channels % self.reduction:
                raise ValueError(
                    f'reduction={self.reduction} of {type(self).__name__} must divide the width of {place.name!r}, '
                    f'which is {in_channels}'
                )
            branch = self.make_branch(place, in_channels, out_channels, in_channels // self.reduction)
            self.branches[place.key] = branch
            if parallel:
                add_parallel(place.start, branch, place.end)
            else:
                add_in_series(place.start, branch)

    @abstractmethod
    def make_branch(self, place: Place, in_channels: int, out_channels: int, hidden_channels: int) -> nn.Module:
        """The network at one place, from ``in_channels`` to ``out_channels``, zero at first."""

    def make_activation(self) -> nn.Module:
        """What stands in the bottleneck."""
        return ACTIVATIONS[self.activation]()


@MODELS.register_module()
class Adapter(BottleneckMethod):
    """Adapters: down, activation, up, and a shortcut around them (Houlsby et al., "Parameter-Efficient Transfer
    Learning for NLP", 2019).

    ::

        z -+-> Linear C -> C / reduction -> activation -> dropout -> Linear -> C [-> LayerNorm] -+-> y
           +-------------------------------------------------------------------------------------+

    Args:
        places: Defaults to ``('attention', 'ffn')``: after the attention and after the feed-forward network of every
            block of a Transformer, before their shortcuts, as in the paper.
        reduction: Defaults to 4, as in ETRIS's comparison (Sec. 5.1).
        parallel: See :class:`BottleneckMethod`. Defaults to False.
        activation: Defaults to ``'gelu'``.
        bias: Whether the linear layers have biases. Defaults to True.
        norm: Whether a LayerNorm ends each network, for tokens. Defaults to False.
        dropout: Probability, in the bottleneck. Defaults to 0.

    Raises:
        ValueError: If a place is of convolutions and ``norm`` is True; see :class:`BottleneckMethod` also.
    """

    def __init__(
        self,
        places: Places = ('attention', 'ffn'),
        reduction: int = 4,
        parallel: bool = False,
        activation: str = 'gelu',
        bias: bool = True,
        norm: bool = False,
        dropout: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(places, reduction, parallel, activation, init_cfg)
        self.bias, self.norm, self.dropout = bias, norm, dropout

    def make_branch(self, place: Place, in_channels: int, out_channels: int, hidden_channels: int) -> nn.Module:
        down = PointwiseLinear(in_channels, hidden_channels, self.bias)
        up = PointwiseLinear(hidden_channels, out_channels, self.bias)
        layers = [down, self.make_activation(), nn.Dropout(self.dropout), up]
        last: PointwiseLinear | nn.LayerNorm = up
        if self.norm:
            if isinstance(place.end, (nn.Conv2d, nn.BatchNorm2d)):
                raise ValueError(f'norm=True of Adapter is for tokens, and {place.name!r} makes maps: use ConvAdapter')
            last = nn.LayerNorm(out_channels)
            layers.append(last)
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)
        return nn.Sequential(*layers)


class ConvBottleneck(nn.Module):
    """1x1 convolution, BatchNorm, activation, 1x1 convolution, BatchNorm, whose weights start at zero.

    Args:
        in_channels: Width of the input.
        out_channels: Width of the output.
        hidden_channels: Width between.
        activation: In the bottleneck.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, H, W), or (B, L, in_channels) -> (B, L, out_channels).
    """

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int, activation: nn.Module) -> None:
        super().__init__()
        self.down = nn.Conv2d(in_channels, hidden_channels, 1, bias=False)
        self.down_norm = nn.BatchNorm2d(hidden_channels)
        self.activation = activation
        self.up = nn.Conv2d(hidden_channels, out_channels, 1, bias=False)
        self.up_norm = nn.BatchNorm2d(out_channels)
        nn.init.zeros_(self.up_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Of a map, or of tokens, each of which is a cell of a map one wide."""
        is_map = x.dim() == 4
        out = x if is_map else x.transpose(1, 2).unsqueeze(3)
        out = self.activation(self.down_norm(self.down(out)))
        out = self.up_norm(self.up(out))
        return out if is_map else out.squeeze(3).transpose(1, 2)


@MODELS.register_module()
class ConvAdapter(BottleneckMethod):
    """Adapters of convolutions and BatchNorm, for image encoders (Sung et al., "VL-Adapter", 2022; ETRIS, Table 2).

    Args:
        places: Defaults to ``'conv'``: parallel to the 3x3 convolution of every bottleneck of a ResNet's layers 2 to 4,
            added before the ReLU. In a ViT ``'ffn'``, say, whose tokens are cells of a map.
        reduction: Defaults to 4, as in ETRIS's comparison (Sec. 5.1).
        parallel: See :class:`BottleneckMethod`. Defaults to True.
        activation: Defaults to ``'relu'``.

    Raises:
        ValueError: If the encoder is one of text, whose padding would be part of BatchNorm's statistics; see
            :class:`BottleneckMethod` also.
    """

    def __init__(
        self,
        places: Places = 'conv',
        reduction: int = 4,
        parallel: bool = True,
        activation: str = 'relu',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(places, reduction, parallel, activation, init_cfg)

    def bind(self, encoder: FrozenEncoder) -> None:
        if hasattr(encoder, 'padding_mask'):
            raise ValueError(
                f'ConvAdapter is for images: in {type(encoder).__name__} the statistics of its BatchNorm would depend '
                'on padding; use Adapter'
            )
        super().bind(encoder)

    def make_branch(self, place: Place, in_channels: int, out_channels: int, hidden_channels: int) -> nn.Module:
        return ConvBottleneck(in_channels, out_channels, hidden_channels, self.make_activation())


class SharedRule(nn.Module):
    """The rule of parametrized hypercomplex multiplication that all layers share: n matrices A_i of n x n.

    Args:
        n: Number and side of the matrices.
        std: Standard deviation of their initial values.
    """

    def __init__(self, n: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n, n, n) * std)


class PHMLinear(nn.Module):
    """Linear layer of low-rank parametrized hypercomplex multiplication, ``W = sum_i kron(A_i, s_i t_i^T)`` (Mahabadi
    et al., "Compacter", 2021, Sec. 3).

    The A_i are shared; s_i and t_i are the layer's own, ``rank * (in_channels + out_channels)`` numbers in all.

    Args:
        in_channels: Width of the input, a multiple of n.
        out_channels: Width of the output, a multiple of n.
        rank: Rank of ``s_i t_i^T``.
        method: Where the rule is found, ``method.rule``; it is the method's, not the layer's.
        bias: Whether there is a bias.

    Shape:
        (..., in_channels) -> (..., out_channels), or maps (B, in_channels, H, W) -> (B, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, rank: int, method: Compacter, bias: bool) -> None:
        super().__init__()
        self.method: Compacter
        self.left = nn.Parameter(torch.empty(method.n, in_channels // method.n, rank))
        self.right = nn.Parameter(torch.empty(method.n, rank, out_channels // method.n))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        vars(self)['method'] = method  # Not registered: it is no part of this layer.
        for factor in (self.left, self.right):
            for matrix in factor.data:
                nn.init.xavier_uniform_(matrix)

    def weight(self) -> Tensor:
        """W (out_channels, in_channels)."""
        rule = self.method.shared_rule.weight
        blocks = self.left @ self.right  # (n, in / n, out / n)
        return torch.einsum('iab,icd->bdac', rule, blocks).flatten(2).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See :func:`~mmetris.models.layers.pointwise.pointwise`."""
        return pointwise(x, self.weight(), self.bias)


@MODELS.register_module()
class Compacter(BottleneckMethod):
    """Adapters whose linear layers are sums of Kronecker products with one shared rule (Mahabadi et al., "Compacter:
    Efficient Low-Rank Hypercomplex Adapter Layers", 2021).

    The rule is one for the whole model: methods of the same name on image and text encoder share it.

    Args:
        places: Defaults to ``('attention', 'ffn')``, as in the paper.
        reduction: Defaults to 32, as in the paper.
        n: Number of Kronecker products, and side of the rule's matrices. Defaults to 4, as in the paper.
        rank: Rank of the factors. Defaults to 1, as in the paper.
        parallel: See :class:`BottleneckMethod`. Defaults to False.
        activation: Defaults to ``'gelu'``.
        bias: Whether the layers have biases. Defaults to True.
        dropout: Probability, in the bottleneck. Defaults to 0.
        rule_std: Standard deviation of the rule's initial values. Defaults to 0.01.

    Raises:
        ValueError: If n does not divide a width or a bottleneck, or the rank is larger than a factor's sides; see
            :class:`BottleneckMethod` also.
    """

    def __init__(
        self,
        places: Places = ('attention', 'ffn'),
        reduction: int = 32,
        n: int = 4,
        rank: int = 1,
        parallel: bool = False,
        activation: str = 'gelu',
        bias: bool = True,
        dropout: float = 0.0,
        rule_std: float = 0.01,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(places, reduction, parallel, activation, init_cfg)
        if n < 1 or rank < 1:
            raise ValueError(f'n={n} and rank={rank} of Compacter must be positive')
        self.n, self.rank, self.bias, self.dropout = n, rank, bias, dropout
        self.rule: SharedRule | None = SharedRule(n, rule_std)
        self._rule_owner: list[Compacter] = []

    @property
    def shared_rule(self) -> SharedRule:
        """The rule, here or with the method that it is shared with."""
        rule = self._rule_owner[0].rule if self._rule_owner else self.rule
        assert rule is not None  # Only what shares another one's has none.
        return rule

    def share_with(self, other: object) -> None:
        if isinstance(other, Compacter) and other.n == self.n:
            # In a list, so that it is not registered: it has its keys in checkpoints, and its place in optimizers.
            self._rule_owner, self.rule = [other], None

    def make_branch(self, place: Place, in_channels: int, out_channels: int, hidden_channels: int) -> nn.Module:
        for what, width in (('input', in_channels), ('output', out_channels), ('bottleneck', hidden_channels)):
            if width % self.n or width // self.n < self.rank:
                raise ValueError(
                    f'{what} of the network at {place.name!r} is {width} wide: for Compacter it must be a multiple of '
                    f'n={self.n}, and at least n * rank = {self.n * self.rank}'
                )
        down = PHMLinear(in_channels, hidden_channels, self.rank, self, self.bias)
        up = PHMLinear(hidden_channels, out_channels, self.rank, self, self.bias)
        nn.init.zeros_(up.right)
        return nn.Sequential(down, self.make_activation(), nn.Dropout(self.dropout), up)
