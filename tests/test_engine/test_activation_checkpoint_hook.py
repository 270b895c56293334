"""Activation checkpointing: the first tuned block of a frozen encoder learns too, also in a real runner."""

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing

from mmetris.engine.activation_checkpointing import checkpoint_activations
from tests.test_engine.test_compile_hook import loader
from tests.test_models.test_tuning.test_contract import inputs, shake
from tests.toy_refer import write_toy_refer
from tests.toy_tuning import tuned_cfg, tuned_model

BLOCKS = [f'{side}.tower.transformer.resblocks.{index}' for side in ('backbone', 'text_encoder') for index in range(4)]


def gradients(model):
    model.forward_logits(*inputs()).square().mean().backward()
    return {name: value.grad for name, value in model.backbone.tuning.named_parameters()}


def test_modules_that_mmengine_turned_on_are_taken_over():
    expected = gradients(shake(tuned_model('adapter')).eval())
    model = shake(tuned_model('adapter')).eval()
    turn_on_activation_checkpointing(model, BLOCKS)
    checkpoint_activations(model, BLOCKS)
    found = gradients(model)
    assert all(value is not None for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    with pytest.raises(AttributeError, match='blocks'):
        checkpoint_activations(model, 'backbone.blocks')


def weights_after_a_run(folder, name, **settings):
    without_dropout = dict(neck=dict(dropout=0.0), decode_head=dict(global_alignment=dict(dropout=0.0)))
    model = tuned_cfg('lora', **without_dropout)
    runner = Runner.from_cfg(
        Config(
            dict(
                default_scope='mmetris',
                custom_imports=dict(imports=['mmetris.registry']),
                model=model,
                train_dataloader=loader(f'{folder}/data', split='train'),
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
                train_cfg=dict(by_epoch=True, max_epochs=2),
                custom_hooks=[dict(type='EpochSeedHook'), dict(type='ActivationCheckpointHook')],
                randomness=dict(seed=0),
                work_dir=f'{folder}/{name}',
                experiment_name=f'{folder.name}_{name}',
                **settings,
            )
        )
    )
    runner.train()
    return {key: value for key, value in runner.model.state_dict().items() if '.tuning.' in key}


def test_a_run_with_the_setting_learns_what_one_without_it_does(tmp_path):
    write_toy_refer(tmp_path / 'data')
    plain = weights_after_a_run(tmp_path, 'plain')
    checkpointed = weights_after_a_run(tmp_path, 'checkpointed', activation_checkpointing=BLOCKS)
    first = 'backbone.tuning.lora.updates.transformer_resblocks_0_attn_q.up.weight'
    assert plain[first].abs().sum() > 0  # It was zero.
    for key, value in plain.items():
        torch.testing.assert_close(checkpointed[key], value, rtol=1e-3, atol=1e-6)
