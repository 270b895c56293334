"""A whole run with compiled parts, in a real runner."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmseg.models import SegTTAModel
from torch import nn

from mmetris.engine.hooks import CompileHook
from mmetris.models import FrozenEncoder
from tests import toy
from tests.toy_refer import write_toy_refer


def loader(root, **kwargs):
    image, mask = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')
    size = dict(type='Letterbox', size=(64, 64))
    # Predictions are compared with masks of the image's own size.
    first = [image, size, mask] if kwargs.get('test_mode') else [image, mask, size]
    pipeline = [*first, dict(type='TokenizeExpression', context_length=17), dict(type='PackSegInputs')]
    dataset = dict(type='RefCocoDataset', data_root=root, pipeline=pipeline, **kwargs)
    return dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset)


def run(folder, name, hooks):
    """Losses of four steps, scores, and the weights that were saved."""
    torch._dynamo.reset()
    runner = Runner.from_cfg(
        Config(
            dict(
                default_scope='mmetris',
                custom_imports=dict(imports=['mmetris.registry']),
                # Dropout draws other random numbers in compiled parts.
                model=toy.model_cfg(
                    'vit', neck=dict(dropout=0.0), decode_head=dict(global_alignment=dict(dropout=0.0))
                ),
                train_dataloader=loader(f'{folder}/data', split='train'),
                val_dataloader=loader(f'{folder}/data', split='val', test_mode=True),
                val_evaluator=dict(type='RefSegMetric', metric=['mIoU']),
                val_cfg=dict(),
                # Not Adam, which makes steps of gradients that are zero but for rounding.
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
                train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=2),
                default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
                custom_hooks=[dict(type='EpochSeedHook'), *hooks],
                randomness=dict(seed=0),
                work_dir=f'{folder}/{name}',
                experiment_name=f'{folder.name}_{name}',
            )
        )
    )
    runner.train()
    history = runner.message_hub.log_scalars
    losses = [float(value) for value in history['train/loss'].data[0]]
    state = torch.load(f'{folder}/{name}/epoch_2.pth', weights_only=False)['state_dict']
    return losses, history['val/mIoU'].current(), state


def test_a_run_without_a_graph_break_learns_and_scores_the_same(tmp_path):
    write_toy_refer(tmp_path / 'data')
    eager = run(tmp_path, 'eager', [])
    # fullgraph: a break is an error. Validation has batches of other sizes, which are compiled anew.
    compiled = run(tmp_path, 'compiled', [dict(type='CompileHook', options=dict(backend='eager', fullgraph=True))])
    assert len(set(eager[0])) == 4
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)


def data_parallel(model):
    wrapper = nn.parallel.DataParallel.__new__(nn.parallel.DataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = model
    return wrapper


@pytest.mark.parametrize('wrap', [data_parallel, SegTTAModel, lambda model: data_parallel(SegTTAModel(model))])
def test_the_model_in_a_wrapper_is_compiled(wrap):
    model, said = toy.build_model('vit'), []
    runner = SimpleNamespace(model=wrap(model), logger=SimpleNamespace(info=said.append))
    CompileHook(dict(backend='eager')).before_run(runner)
    assert all(part._compiled_call_impl is not None for part in (model.neck, model.decode_head))
    assert len(said) == 1 and 'first call' in said[0]


def test_other_models_and_fsdp_are_refused_when_the_run_begins(monkeypatch):
    with pytest.raises(ValueError, match='BaseModel has no neck'):
        CompileHook().before_run(SimpleNamespace(model=type('BaseModel', (BaseModel,), dict(forward=None))()))
    monkeypatch.setattr(FrozenEncoder, 'weights_are_spread', True)
    with pytest.raises(ValueError, match='does not go with FSDP'):
        CompileHook().before_run(SimpleNamespace(model=toy.build_model('vit')))
