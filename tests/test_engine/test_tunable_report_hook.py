"""The table of tuned and frozen parameters that a training log opens with."""

import logging
import re

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from mmetris.engine import TunableReportHook
from mmetris.engine.hooks.tunable_report_hook import iter_parts, tunable_report
from mmetris.registry import HOOKS
from tests import toy


class Bridger(nn.Linear):
    pass


class TinyModel(BaseModel):
    """A referring model's parts in miniature: 40 + 10 frozen, 1,020 + 6 tunable parameters."""

    def __init__(self, with_bridger=True):
        super().__init__()
        self.backbone = nn.Linear(9, 4).requires_grad_(False)
        self.text_encoder = nn.Linear(4, 2).requires_grad_(False)
        self.neck = Bridger(50, 20) if with_bridger else None
        self.decode_head = nn.Linear(5, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.decode_head(torch.ones(1, 5)).sum())


def cells(report, part):
    row = next(line for line in report.splitlines() if re.match(rf'\| {re.escape(part)} ', line))
    return [cell.strip() for cell in row.strip('|').split('|')]


def optimizer_of(model, **kwargs):
    groups = [
        dict(params=model.decode_head.parameters()),
        dict(params=model.neck.parameters(), lr=1e-3),
        dict(params=model.backbone.parameters(), lr=5.0),
    ]
    return OptimWrapper(torch.optim.Adam(groups, lr=1e-4, **kwargs))


def test_each_part_shows_its_class_and_its_tuned_and_frozen_parameters():
    report = tunable_report(TinyModel())
    assert cells(report, 'backbone') == ['backbone', 'Linear', '0', '40', '0.00 %']
    assert cells(report, 'text_encoder') == ['text_encoder', 'Linear', '0', '10', '0.00 %']
    assert cells(report, 'neck') == ['neck', 'Bridger', '1,020', '0', '100.00 %']
    assert cells(report, 'decode_head') == ['decode_head', 'Linear', '6', '0', '100.00 %']
    assert cells(report, 'total') == ['total', '', '1,026', '50', '95.35 %']
    assert 'data_preprocessor' not in report, 'a part without parameters has no row'


def test_a_bridged_backbone_shows_what_is_the_bridgers():
    text = dict(arch=toy.VIT, vocabulary=dict(classes=['dog', 'cat']))
    vit = dict(type='VisionTransformer', img_size=64, patch_size=8, embed_dims=8, num_layers=4, num_heads=2)
    model = nn.Module()
    model.backbone = toy.build(dict(type='BridgedBackbone', backbone=vit, class_text=text, freeze_backbone=True))
    model.neck, model.decode_head = nn.Linear(2, 2), nn.Linear(2, 2)
    report = tunable_report(model)
    count = sum(value.numel() for value in model.backbone.bridger.parameters())
    assert cells(report, 'backbone.bridger') == ['backbone.bridger', 'Bridger', f'{count:,}', '0', '100.00 %']
    assert [cells(report, f'backbone.{part}')[2] for part in ('backbone', 'class_text')] == ['0', '0']
    assert 'beside the head' not in report, 'the neck of such a model is not its Bridger'


def test_the_last_lines_sum_up_the_model_and_the_part_beside_the_head():
    lines = tunable_report(TinyModel()).splitlines()
    assert lines[-2] == 'tunable parameters: 1,026 of 1,076 (95.35 %)'
    assert lines[-1] == (
        'tunable beside the head: 1,020 (Bridger 1,020, tuning methods 0, prompt 0, inside the encoders 0), '
        "2040.00 % of the encoders' 50"
    )


def test_a_partly_tuned_encoder_counts_on_both_sides():
    model = TinyModel()
    model.backbone.bias.requires_grad_(True)
    report = tunable_report(model)
    assert cells(report, 'backbone')[2:] == ['4', '36', '10.00 %']
    assert 'inside the encoders 4' in report


def test_models_without_a_neck_are_reported_too():
    report = tunable_report(TinyModel(with_bridger=False))
    assert cells(report, 'total')[2:4] == ['6', '50']
    assert report.splitlines()[-1] == 'tunable parameters: 6 of 56 (10.71 %)'


def test_shared_and_own_parameters_count_once():
    model = TinyModel()
    model.text_encoder.weight = model.backbone.weight
    model.scale = nn.Parameter(torch.ones(3))
    parts = {name: sum(p.numel() for p in parameters) for name, _, parameters in iter_parts(model)}
    assert parts == {'backbone': 40, 'text_encoder': 2, 'neck': 1020, 'decode_head': 6, '(own)': 3}
    assert sum(parts.values()) == sum(p.numel() for p in model.parameters())


def test_learning_rates_are_those_of_the_config_and_of_tuned_parameters_only():
    model = TinyModel()
    wrapper = optimizer_of(model)
    # A schedule keeps the configured rate, and a warm-up lowers the current one.
    torch.optim.lr_scheduler.LinearLR(wrapper.optimizer, start_factor=0.1)
    report = tunable_report(model, wrapper)
    assert cells(report, 'neck')[-1] == '0.001'
    assert cells(report, 'decode_head')[-1] == '0.0001'
    assert cells(report, 'backbone')[-1] == ''


@pytest.fixture
def log():
    messages = []

    class Collector(logging.Handler):
        def emit(self, record):
            if record.levelno >= logging.INFO:
                messages.append((record.levelname, record.getMessage()))

    logger = MMLogger.get_instance('test_tunable_report_hook')
    collector = Collector()
    logger.addHandler(collector)
    yield messages
    logger.removeHandler(collector)


class FakeRunner:
    def __init__(self, model, optim_wrapper):
        self.model, self.optim_wrapper = model, optim_wrapper


def test_a_tunable_parameter_without_optimizer_is_warned_of(log):
    model = TinyModel()
    wrapper = OptimWrapper(torch.optim.SGD(model.neck.parameters(), lr=0.1))
    TunableReportHook().before_train(FakeRunner(model, wrapper))
    assert (
        'WARNING',
        '2 tunable parameters belong to no optimizer and will not change, the first is decode_head.weight',
    ) in log


def test_a_second_training_with_the_same_hook_does_not_repeat_the_table(log):
    model = TinyModel()
    hook = TunableReportHook()
    for _ in range(2):
        hook.before_train(FakeRunner(model, optimizer_of(model)))
    assert len(log) == 1


def test_only_the_first_process_reports(log, monkeypatch):
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group=None: 1)
    model = TinyModel()
    TunableReportHook().before_train(FakeRunner(model, optimizer_of(model)))
    assert log == []


def test_a_distributed_wrapper_is_looked_through(log, tmp_path):
    torch.distributed.init_process_group('gloo', f'file://{tmp_path}/rendezvous', rank=0, world_size=1)
    try:
        model = TinyModel()
        TunableReportHook().before_train(FakeRunner(MMDistributedDataParallel(model), optimizer_of(model)))
    finally:
        torch.distributed.destroy_process_group()
    assert cells(log[0][1], 'neck')[1] == 'Bridger'


def test_the_log_of_a_training_run_has_the_table_once_before_the_first_iteration(tmp_path):
    assert isinstance(HOOKS.build(dict(type='TunableReportHook')), TunableReportHook)
    runner = Runner(
        TinyModel(),
        str(tmp_path),
        train_dataloader=dict(batch_size=1, dataset=[0, 1], sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.125)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=[dict(type='TunableReportHook')],
        default_scope='mmetris',
        experiment_name=tmp_path.name,
    )
    runner.train()
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert log.count('tunable and frozen parameters') == 1
    assert log.index('tunable and frozen parameters') < log.index('Epoch(train)')
    assert cells(log, 'neck')[-1] == '0.125'
