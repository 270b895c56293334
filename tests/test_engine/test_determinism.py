"""The same seed gives the same weights, and two processes compute what one computes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm
from mmengine.runner import Runner
from mmengine.structures import PixelData
from torch import library as operators
from torch import nn
from torch.nn.modules._functions import SyncBatchNorm as SyncBatchNormFunction
from torch.nn.parallel import DistributedDataParallel

from mmetris import tokenize
from mmetris.datasets.shapes import ShapesSpec, write_shapes
from mmetris.structures import RefDataSample
from tests import toy
from tests.forked_process import kill_test

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('determinism') / 'shapes'
    write_shapes(folder, ShapesSpec(num_train=3, num_val=1, num_test_a=1, num_test_b=1))
    return folder


def train(shapes: Path, work_dir: Path, seed: int = 3, num_workers: int = 0, kind: str = 'vit') -> dict:
    """Two epochs of the shipped config with a toy model, in deterministic computation; returns the weights."""
    cfg = Config.fromfile(ROOT / 'configs/etris/etris_tiny_shapes.py')
    cfg.merge_from_dict(
        dict(
            model=dict(toy.model_cfg(kind), _delete_=True),
            train_dataloader=dict(
                batch_size=3,
                num_workers=num_workers,
                persistent_workers=False,
                dataset=dict(data_root=f'{shapes}/'),
            ),
            train_cfg=dict(max_epochs=2),
            default_hooks=dict(checkpoint=dict(save_best=None)),
            randomness=dict(seed=seed, deterministic=True),
        )
    )
    for phase in ('val', 'test'):
        cfg.update({f'{phase}_{part}': None for part in ('dataloader', 'cfg', 'evaluator')})
    cfg.work_dir, cfg.experiment_name = str(work_dir), f'{work_dir.name}_{seed}_{num_workers}_{kind}'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        runner = Runner.from_cfg(cfg)
        try:
            runner.train()
        finally:
            torch.use_deterministic_algorithms(False)
    return {key: value.clone() for key, value in runner.model.state_dict().items()}


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
def test_a_seed_gives_the_same_weights_whoever_loads_the_data(shapes, tmp_path, kind):
    """All of it with PyTorch's deterministic algorithms alone, which refuse what has none."""
    first = train(shapes, tmp_path / 'first', kind=kind)
    for again in (
        train(shapes, tmp_path / 'again', kind=kind),
        train(shapes, tmp_path / 'workers', num_workers=1, kind=kind),
    ):
        assert first.keys() == again.keys()
        assert all(torch.equal(value, again[key]) for key, value in first.items())
    other = train(shapes, tmp_path / 'other', seed=4, kind=kind)
    assert not all(torch.equal(value, other[key]) for key, value in first.items())


class Loss(nn.Module):
    """What a training minimises, as a module that can be wrapped."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor, samples: list[RefDataSample]) -> torch.Tensor:
        return sum(value for key, value in self.model.loss(images, samples).items() if 'loss' in key)


def batch(size: int) -> tuple[torch.Tensor, list[RefDataSample]]:
    generator = torch.Generator().manual_seed(0)
    tokens = tokenize(['the left dog', 'a cat', 'something red', 'the man behind it'] * (size // 4), 17)
    samples = []
    for row in tokens:
        sample = RefDataSample(tokens=row)
        sample.gt_sem_seg = PixelData(data=(torch.rand(1, 64, 64, generator=generator) > 0.7).long())
        samples.append(sample)
    return toy.randn(size, 3, 64, 64), samples


def loss_model(kind: str = 'vit', norm_eval: bool = True) -> Loss:
    """Without what a share of a batch cannot compute alike: dropout, and BatchNorm's statistics if not shared."""
    model = Loss(toy.build_model(kind)).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(module.training and not norm_eval)
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        elif isinstance(getattr(module, 'dropout', None), float):
            module.dropout = 0.0
    return model


def synchronise_on_a_cpu() -> None:
    """Let PyTorch's SyncBatchNorm compute on a CPU, in this process: its kernels are written for GPUs alone.

    Which values go to the other processes, and what is made of them, stays PyTorch's own code.
    """
    dims = [0, 2, 3]

    def wide(value: torch.Tensor) -> torch.Tensor:
        return value[None, :, None, None]

    def stats(x, eps):
        return x.mean(dims), (x.var(dims, unbiased=False) + eps).rsqrt()

    def gather(x, means, inverses, running_mean, running_var, momentum, eps, counts):
        counts = counts[:, None]
        mean = (means * counts).sum(0) / counts.sum()
        variance = ((inverses**-2 - eps + means**2) * counts).sum(0) / counts.sum() - mean**2
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * counts.sum() / (counts.sum() - 1), momentum)
        return mean, (variance + eps).rsqrt()

    def normalise(x, weight, bias, mean, inverse, eps):
        return (x - wide(mean)) * wide(inverse * weight) + wide(bias)

    def reduce(grad, x, mean, inverse, weight, *needed):
        product = (grad * (x - wide(mean))).sum(dims)
        return grad.sum(dims), product, product * inverse, grad.sum(dims)

    def spread(grad, x, mean, inverse, weight, sums, products, counts):
        size = counts.sum()
        inner = grad - wide(sums / size) - (x - wide(mean)) * wide(inverse**2 * products / size)
        return inner * wide(inverse * weight)

    kernels = operators.Library('aten', 'IMPL')
    for name, kernel in dict(
        batch_norm_stats=stats,
        batch_norm_gather_stats_with_counts=gather,
        batch_norm_elemt=normalise,
        batch_norm_backward_reduce=reduce,
        batch_norm_backward_elemt=spread,
    ).items():
        kernels.impl(name, kernel, 'CPU')
    synchronise_on_a_cpu.kernels = kernels  # They count as long as it lives.

    def forward(module: nn.SyncBatchNorm, x: torch.Tensor) -> torch.Tensor:
        """Without the check that the input is on a GPU."""
        if not module.training:
            return nn.functional.batch_norm(
                x, module.running_mean, module.running_var, module.weight, module.bias, False, 0.0, module.eps
            )
        own = module.weight, module.bias, module.running_mean, module.running_var, module.eps, module.momentum
        return SyncBatchNormFunction.apply(x, *own, torch.distributed.group.WORLD, torch.distributed.get_world_size())

    nn.SyncBatchNorm.forward = forward
    DistributedDataParallel._passing_sync_batchnorm_handle = lambda self, module: None  # The same check.


@pytest.mark.processes
@pytest.mark.parametrize('sync_bn', [None, 'torch'])
def test_two_processes_with_four_samples_compute_what_one_with_eight_computes(tmp_path, sync_bn):
    norm_eval = sync_bn is None

    def share() -> None:
        rank = int(os.environ['RANK'])
        torch.distributed.init_process_group('gloo')
        model = loss_model(norm_eval=norm_eval)
        if sync_bn is not None:
            synchronise_on_a_cpu()
            model = convert_sync_batchnorm(model, sync_bn)  # As MMEngine's runner does it.
        model = DistributedDataParallel(model)
        images, samples = batch(8)
        loss = model(images[4 * rank : 4 * rank + 4], samples[4 * rank : 4 * rank + 4])
        loss.backward()
        gradients = {name: value.grad for name, value in model.module.named_parameters() if value.grad is not None}
        torch.save((loss.detach(), gradients, dict(model.module.named_buffers())), tmp_path / f'{rank}.pth')

    assert kill_test.wait(kill_test.start(share, tmp_path / 'log.txt', processes=2)), (tmp_path / 'log.txt').read_text()
    shares = [torch.load(tmp_path / f'{rank}.pth') for rank in range(2)]
    model = loss_model(norm_eval=norm_eval)
    before = {name: value.clone() for name, value in model.named_buffers()}
    loss = model(*batch(8))
    loss.backward()
    torch.testing.assert_close((shares[0][0] + shares[1][0]) / 2, loss.detach(), rtol=1e-5, atol=1e-6)
    expected = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert len(expected) > 50
    moved = [
        name for name, value in model.named_buffers() if 'running' in name and not torch.equal(value, before[name])
    ]
    assert (len(moved) > 4) != norm_eval
    for _, gradients, buffers in shares:
        assert gradients.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(gradients[name], value, rtol=1e-4, atol=1e-6, msg=name)
        for name in moved:
            torch.testing.assert_close(buffers[name], model.get_buffer(name), msg=name)
