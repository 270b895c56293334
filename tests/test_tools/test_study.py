"""The study tool: two toy jobs are done, killed, failed and reported."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.utils import ManagerMixin

from mmetris.datasets.shapes import ShapesSpec, write_shapes
from mmetris.utils.command_line import build_runner, build_without_weights
from mmetris.utils.param_count import count_parameters
from mmetris.utils.work_folder import IN_USE
from tests import toy
from tests.forked_process import kill_test

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools' / 'study'))

import report as study_report  # noqa: E402
import run as study_run  # noqa: E402
from study import Job, read_lines, read_study, set_budget  # noqa: E402

STUDIES = sorted((ROOT / 'studies').glob('*.yaml'))
NONE = {'model.neck.stages': []}
built: set[str] = set()


@pytest.fixture(scope='module')
def toy_study(tmp_path_factory) -> Path:
    """A study of a toy model with the Bridger and without, on a few drawn images."""
    folder = tmp_path_factory.mktemp('study')
    write_shapes(folder / 'shapes', ShapesSpec(num_train=2, num_val=1, num_test_a=0, num_test_b=1))
    cfg = Config.fromfile(ROOT / 'configs/etris/etris_tiny_shapes.py')
    loader = dict(batch_size=2, dataset=dict(data_root=f'{folder}/shapes/'))
    model = dict(toy.model_cfg('vit'), _delete_=True)
    cfg.merge_from_dict(dict(model=model, train_dataloader=loader, val_dataloader=loader, test_dataloader=loader))
    cfg.dump(folder / 'toy.py')
    content = dict(
        config=str(folder / 'toy.py'),
        variants=dict(none=dict(options=NONE), bridger=dict(paper='etris_r101_refcoco')),
        reference='none',
        samples=[8],
        seeds=[0],
        test=['val', 'testB'],
        kinds=['attribute', 'place', 'relation'],
        checkpoints=2,
    )
    path = folder / 'toy.yaml'
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def changed(path: Path, name: str, **changes) -> Path:
    """Another study in the folder of one."""
    other = path.with_name(f'{name}.yaml')
    other.write_text(yaml.safe_dump(dict(_base_=path.name, **changes), sort_keys=False))
    return other


def forget_instances(cls: type) -> None:
    """Forget what other tests of this process have named: a visualizer of the same name would keep its folder."""
    for subclass in cls.__subclasses__():
        subclass._instance_dict.clear()
        forget_instances(subclass)


def fork(command, variables, log):
    """What starts a job's process, without the seconds that imports take."""

    def tool():
        forget_instances(ManagerMixin)
        os.environ.update(variables)
        for handle in os.listdir('/proc/self/fd'):  # A process that is no fork gets no open files either.
            if os.path.exists(f'/proc/self/fd/{handle}') and os.readlink(f'/proc/self/fd/{handle}').endswith(IN_USE):
                os.close(int(handle))
        sys.argv = command[1:]
        runpy.run_path(command[1], run_name='__main__')

    return SimpleNamespace(pid=kill_test.start(tool, log)[0])


def run(path: Path, out: Path, *flags: str, kill=None) -> tuple[int, str]:
    """Do a study in a process of its own, which ``kill`` may end: exit status (negative: a signal) and output.

    Args:
        path: The study.
        out: Folder of its jobs.
        *flags: More arguments.
        kill: Called with the folder again and again; once it returns True, the process is killed. Defaults to None.
    """
    out.mkdir(exist_ok=True)
    log = out.with_suffix('.log')
    log.unlink(missing_ok=True)

    def study():
        study_run.start_process = fork
        sys.exit(study_run.main([str(path), str(out), *flags]))

    (process,) = kill_test.start(study, log)
    end = time.monotonic() + 600
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), log.read_text()
        if time.monotonic() > end or (kill is not None and kill(out)):
            os.kill(process, signal.SIGKILL)
        time.sleep(0.02)


def report_of(path: Path, out: Path) -> str:
    """The report without what things cost, which differs from run to run."""
    text = study_report.Report(read_study(path), read_lines(out / 'results.jsonl')).markdown()
    return re.sub(r'\| samples \| variant \| step.*?\n\n|\| samples \| variant \| step.*', '', text, flags=re.DOTALL)


@pytest.fixture(scope='module')
def undisturbed(toy_study) -> Path:
    """Folder of the study, done in one go."""
    out = toy_study.parent / 'undisturbed'
    code, output = run(toy_study, out, '--keep')
    assert code == 0, output
    assert '[1 of 2] none_8_seed0: val/mIoU' in output and '[2 of 2] bridger_8_seed0: val/mIoU' in output
    return out


@pytest.mark.processes
def test_each_job_is_a_line_that_says_what_it_was_and_what_it_cost(toy_study, undisturbed):
    none, bridger = read_lines(undisturbed / 'results.jsonl')
    assert [none['job'], bridger['job']] == ['none_8_seed0', 'bridger_8_seed0']
    assert none['hash'] != bridger['hash'] and none['seed'] == 0 and none['samples'] == 8
    assert none['parameters']['bridger'] == 0 < bridger['parameters']['bridger']
    names = {f'{split}/mIoU{kind}' for split in ('val', 'testB') for kind in ('', ' of place', ' of relation')}
    assert names <= bridger['scores'].keys() and 0 <= bridger['scores']['val/mIoU'] <= 100
    kinds = [bridger['scores'][f'val/mIoU of {kind}'] for kind in ('attribute', 'place', 'relation')]
    assert sum(kinds) / 3 == pytest.approx(bridger['scores']['val/mIoU'], abs=0.01)  # As many sentences of each.
    for key in ('step_ms', 'train_seconds', 'cpu_seconds', 'peak_mb'):
        assert bridger[key] > 0
    assert bridger['machine']['torch'] and bridger['versions']['mmengine'] and bridger['finished']


@pytest.mark.processes
def test_a_pair_sees_the_same_samples_and_starts_with_the_same_decoder(undisturbed):
    orders, decoders = [], []
    for name in ('none_8_seed0', 'bridger_8_seed0'):
        cfg = Config.fromfile(undisturbed / name / 'config.py')
        cfg.update(work_dir=str(undisturbed / 'looked_at'), experiment_name=name, launcher='none', visualizer=None)
        runner = build_runner(cfg)
        runner._init_model_weights()
        decoders.append(runner.model.decode_head.state_dict())
        batches = islice(runner.build_dataloader(cfg.train_dataloader, runner.seed), 4)
        orders.append([[sample.sent_id for sample in batch['data_samples']] for batch in batches])
    assert orders[0] == orders[1] and len(set(map(tuple, orders[0]))) > 1
    assert all(torch.equal(value, decoders[1][key]) for key, value in decoders[0].items())


def has(out: Path, pattern: str) -> bool:
    return bool(list(out.glob(pattern)))


# When the study is killed, one after the other.
KILLS = {
    'while the first trains': lambda out: has(out, 'none_*/last_checkpoint') and not has(out, 'none_*/trained'),
    'while the first is tested': lambda out: has(out, 'none_*/test_*'),
    'behind its test': lambda out: has(out, 'none_*/test_*/*/*.json'),
    'while the second trains': lambda out: has(out, 'bridger_*/last_checkpoint'),
    'while the second is tested': lambda out: has(out, 'bridger_*/test_*'),
}


@pytest.mark.processes
def test_a_study_killed_in_each_phase_ends_with_the_same_report(toy_study, undisturbed, tmp_path):
    out = tmp_path / 'killed'
    for phase, is_reached in KILLS.items():
        code, output = run(toy_study, out, kill=is_reached)
        assert code == -signal.SIGKILL, f'{phase}: {output}'
        assert len(read_lines(out / 'results.jsonl')) == phase.startswith('while the second'), phase
    code, output = run(toy_study, out)
    assert code == 0, output
    assert report_of(toy_study, out) == report_of(toy_study, undisturbed)
    assert len(read_lines(out / 'results.jsonl')) == 2
    assert run(toy_study, out) == (0, '')  # Nothing is left.


@pytest.mark.processes
def test_a_job_that_fails_is_told_with_its_log_and_the_others_are_done(toy_study, undisturbed, tmp_path):
    broken = dict(options={'model.neck.embed_dims': 9})  # No multiple of the heads.
    variants = dict(broken=broken, none=dict(options=NONE))
    path = changed(toy_study, 'failing', variants=variants)
    out = tmp_path / 'failing'
    code, output = run(path, out)
    assert code == 1 and 'FAILED broken_8_seed0 (train):' in output and 'embed_dims' in output
    lines = {line['job']: line for line in read_lines(out / 'results.jsonl')}
    assert lines['broken_8_seed0']['failed'] == 'train' and 'scores' in lines['none_8_seed0']
    text = report_of(path, out)
    assert '`broken_8_seed0` failed (train):' in text and 'embed_dims' in text and '1 of 2 jobs are over.' in text


@pytest.mark.processes
def test_studies_that_share_a_file_of_results_lose_no_line(toy_study, tmp_path):
    results = tmp_path / 'results.jsonl'

    def study(number: int) -> None:
        pool = study_run.Pool(read_study(toy_study), tmp_path / str(number), results, keep=True, workers=None)
        for line in range(20):
            pool.append(dict(job=f'{number}_{line}'))

    processes = [kill_test.start(partial(study, number), tmp_path / f'{number}.log')[0] for number in range(4)]
    assert [os.waitpid(process, 0)[1] for process in processes] == [0] * 4
    names = {f'{number}_{line}' for number in range(4) for line in range(20)}
    assert {line['job'] for line in read_lines(results)} == names
    assert not [path.name for path in tmp_path.iterdir() if path.suffix not in ('.log', '.jsonl')]


def test_the_value_that_scored_best_is_taken_and_waited_for(toy_study):
    study = read_study(
        changed(
            toy_study,
            'searching',
            search=dict(option='optim_wrapper.optimizer.lr', values=[0.1, 0.2, 0.3], seed=9, score='val/mIoU'),
        )
    )
    searches, job = study.search_jobs('', 'none'), study.jobs()[3]
    assert [other.name for other in study.jobs()[:3]] == [search.name for search in searches]
    assert job.name == 'none_8_seed0' and len(study.jobs()) == 8
    assert [study.config_of(search).optim_wrapper.optimizer.lr for search in searches] == [0.1, 0.2, 0.3]
    lines = [line_of(study, search, score) for search, score in zip(searches, (5.0, 7.0, 7.0))]
    assert study.with_value(job, lines[:2]) is None
    assert study.with_value(job, lines).value == 0.2
    lines[1] = dict(job=lines[1]['job'], hash=lines[1]['hash'], failed='train', log='NaN')
    assert study.with_value(job, lines).value == 0.3
    assert study.with_value(job, [dict(lines[1], hash=line['hash']) for line in lines]) is None
    table = study_report.Report(study, lines).markdown()
    assert '| `none` | 5.00 | - | **7.00** | yes |' in table and '`none_8_seed9_search-0.2` failed (train)' in table


def line_of(study, job, score: float, **scores) -> dict:
    """A line as a job of that score leaves it."""
    return dict(
        job=job.name,
        hash=study.hash_of(job),
        value=job.value,
        scores={'val/mIoU': score, 'testB/mIoU': score / 2, **scores},
        parameters=dict(bridger=7, prompt=0, tuning=1, backbone_tunable=2, head=100, frozen=0, total=110),
        step_ms=10.0,
        cpu_seconds=None,
        peak_mb=5,
        machine=dict(device='a machine'),
    )


def test_differences_are_paired_by_seed_with_students_interval(toy_study, tmp_path):
    """Differences 1, 2, 6: mean 3, standard deviation sqrt(7), t(0.975, 2) = 4.3027."""
    study = read_study(changed(toy_study, 'seeds', seeds=[0, 1, 2, 3]))
    none, bridger = ([job for job in study.jobs() if job.variant == name] for name in ('none', 'bridger'))
    lines = [line_of(study, job, 40.0 + job.seed) for job in none]
    lines += [line_of(study, job, 40.0 + job.seed + more) for job, more in zip(bridger, (1, 2, 6))]
    lines[-1]['step_ms'] = 30.0  # Something else was going on.
    lines.append(dict(lines[0], job=bridger[3].name, hash='another'))
    report = study_report.Report(study, lines)
    half = 4.302653 * 7**0.5 / 3**0.5
    assert report.differences('', 'bridger', 8, 'val/mIoU') == [1, 2, 6]
    assert study_report.mean_and_interval([1, 2, 6]) == (3, pytest.approx(half, abs=1e-5))
    assert study_report.mean_and_interval([2.5]) == (2.5, None)
    text = report.markdown()
    assert f'+3.00 ({3 - half:+.2f} to {3 + half:+.2f})' in text
    assert '41.50 ± 1.29' in text and '7 of 8 jobs are over.' in text
    assert 'Left out, since their configs are others now: `bridger_8_seed3`.' in text
    assert 'Not run yet, jobs: `bridger` 1.' in text
    assert '| `bridger` | 10 | 3 |' in text and '| 71.06 |' in text  # The paper's, from a metafile.

    results, document = tmp_path / 'toy.jsonl', tmp_path / 'study.md'
    results.write_text(''.join(f'{json.dumps(line)}\n' for line in lines))
    document.write_text(f'# A\n\n<!-- study file="{study.path}" results="{results}" -->\n<!-- end of study -->\n\nB\n')
    assert study_report.main(['--document', str(document), '--check']) == 1
    assert study_report.main(['--document', str(document)]) == 0
    plot = results.with_name(f'{study.path.stem}.png')
    assert report.markdown(plot.name) in document.read_text() and document.read_text().endswith('\n\nB\n')
    assert plot.read_bytes().startswith(b'\x89PNG')
    assert study_report.main(['--document', str(document), '--check']) == 0

    # Of the reference alone there is no difference to draw.
    alone = study_report.Report(study, lines[:4])
    assert report.has_plot and not alone.has_plot and not study_report.Report(study, []).has_plot


def test_settings_share_a_table_below_their_hypotheses(toy_study):
    settings = dict(
        few=dict(hypothesis='Few.'),
        many=dict(options={'train_dataloader.batch_size': 4}),
        more=dict(hypothesis='More.', options={'train_dataloader.batch_size': 8}),
    )
    study = read_study(changed(toy_study, 'settings', settings=settings))
    lines = []
    for job in study.jobs():
        if job.setting != 'more':
            kinds = {f'val/mIoU of {kind}': 1.5 for kind in study.kinds if kind == 'place' or job.setting == 'few'}
            lines.append(line_of(study, job, 40.0 + (job.variant == 'bridger') + len(lines), **kinds))
    text = study_report.Report(study, lines).markdown()
    assert '\n\n- `few`: Few.\n\n**8 samples**\n\n| setting | variant |' in text and 'More.' not in text
    assert '| `few` | `none` | 10 | 1 | 40.00 | - |' in text
    assert '| `many` | `bridger` |' in text and text.count('**8 samples**') == 1
    rows = [line for line in text.split('\n') if line.startswith('| `many` | `none` |') and '1.50' in line]
    assert rows == ['| `many` | `none` | - | - | 1.50 | - | - | - |']


def test_a_budget_keeps_the_shape_of_a_schedule(toy_study):
    study = read_study(toy_study)
    cfg = study.config_of(study.jobs()[0])
    warm_up, cosine = cfg.param_scheduler
    assert warm_up == dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=60)
    assert cosine == dict(type='CosineAnnealingLR', by_epoch=False, end=4, T_max=4)
    assert cfg.train_cfg.max_iters == 4 and cfg.default_hooks.checkpoint.interval == 2
    assert cfg.randomness == dict(seed=0) and cfg.model.init_seed == 0
    more = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}
    other = read_study(changed(toy_study, 'workers', options=more))
    assert other.hash_of(other.jobs()[0]) == study.hash_of(study.jobs()[0])  # Who reads the samples decides nothing.
    other = read_study(changed(toy_study, 'batches', options={'train_dataloader.batch_size': 4}))
    assert other.hash_of(other.jobs()[0]) != study.hash_of(study.jobs()[0])
    paper = Config.fromfile(ROOT / 'configs/etris/etris_r101_refcoco.py')
    set_budget(paper, samples=16 * 1000, checkpoints=10)
    (steps,) = paper.param_scheduler
    assert (steps.milestones, steps.end, steps.by_epoch) == ([700], 1000, False)  # Epoch 35 of 50.
    with pytest.raises(ValueError, match='trains by iterations already'):
        set_budget(paper, 100, 1)


@pytest.mark.parametrize(
    'changes, problem',
    [
        (dict(sedes=[1]), "unknown key 'sedes'"),
        (dict(seeds=[]), 'seeds is empty'),
        (dict(reference='nobody'), "reference 'nobody' is none of"),
        (dict(variants={'a b': {}}), 'names a folder'),
        (dict(variants=dict(none=dict(opt={}))), "variants.none: unknown key 'opt'"),
        (dict(config='nothing.py'), 'config nothing.py is not there'),
        (dict(search=dict(option='a')), 'search must have'),
        (dict(search=dict(option='a', values=[1], seed=0, score='val/mIoU')), 'search.seed is one of seeds'),
    ],
)
def test_mistakes_of_a_study_file_are_named(toy_study, changes, problem):
    with pytest.raises(ValueError, match=problem):
        read_study(changed(toy_study, 'wrong', **changes))


@pytest.mark.parametrize('path', STUDIES, ids=lambda path: path.stem)
def test_every_study_builds_its_models_and_knows_the_papers_rows(path):
    study = read_study(path)
    report = study_report.Report(study, [])
    assert report.markdown().startswith(f'0 of {len(study.jobs())} jobs are over.')
    hashes = set()
    for setting in study.settings:
        for name, variant in study.variants.items():
            job = Job(setting, name, study.samples[0], study.seeds[0], (study.search or {}).get('values', [None])[0])
            hashes.add(study.hash_of(job))
            # Unchanged configs are built by tests of their own; what another study has, once.
            if study.hash_of(job) not in built and 'config' not in (variant or {}):
                built.add(study.hash_of(job))
                assert count_parameters(build_without_weights(study.config_of(job)))['head'] > 0
            if 'paper' in (variant or {}):
                assert report._paper(name) is not None, name
    assert len(hashes) == len(study.settings) * len(study.variants)


def test_the_document_has_what_the_committed_results_say():
    assert not study_report.write_document(ROOT / 'docs' / 'study.md', check=True)
