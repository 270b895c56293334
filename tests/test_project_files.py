"""CI, pre-commit, citation, contribution guide and linters' settings agree with the Makefile and with each other."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from mmetris.version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it along

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / '.github' / 'workflows').glob('*.y*ml'))
STRICT = (
    'disallow_untyped_defs',
    'check_untyped_defs',
    'warn_redundant_casts',
    'warn_unused_ignores',
    'strict_equality',
    'extra_checks',
)


def makefile() -> str:
    return (ROOT / 'Makefile').read_text(encoding='utf-8')


def recipe(target: str) -> str:
    """The commands of one of the Makefile's targets."""
    return re.search(rf'^{re.escape(target)}:[^\n]*\n((?:\t[^\n]*\n)*)', makefile(), re.MULTILINE)[1]


def test_ci_calls_targets_that_make_has():
    targets = set()
    for path in WORKFLOWS:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
        assert content['jobs'] and True in content, f'{path.name}: YAML reads the key "on" as True'
        for job in content['jobs'].values():
            commands = [step['run'] for step in job['steps'] if 'run' in step]
            assert commands and all(command.startswith('make ') for command in commands)
            targets.update(word for command in commands for word in command.split()[1:])
    assert targets == {'lint', 'docs', 'test', 'test-original'}
    phony = re.search(r'^\.PHONY: (.*)$', makefile(), re.MULTILINE)[1].split()
    assert targets <= set(phony)


def test_ci_tests_the_versions_of_python_that_the_package_names():
    jobs = yaml.safe_load((ROOT / '.github' / 'workflows' / 'ci.yml').read_text(encoding='utf-8'))['jobs']
    tested = jobs['test']['strategy']['matrix']['python-version']
    setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
    assert tested == re.findall(r"'Programming Language :: Python :: (3\.\d+)'", setup)
    assert f">={tested[0]}'" in re.search(r'python_requires=(.*)', setup)[1]
    for job in jobs.values():
        (version,) = [step['with']['python-version'] for step in job['steps'] if 'setup-python' in step.get('uses', '')]
        assert version == '${{ matrix.python-version }}' or version in tested


def test_pre_commit_runs_the_linters_of_make_from_the_same_environment():
    content = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text(encoding='utf-8'))
    assert [repo['repo'] for repo in content['repos']] == ['local']
    hooks = content['repos'][0]['hooks']
    assert all(hook['language'] == 'system' and 'additional_dependencies' not in hook for hook in hooks)
    of_make = [line.split(' -m ')[1].replace(' $(LINT_PATHS)', '') for line in recipe('lint').strip().split('\n')]
    venv = re.search(r'^VENV := (.*)$', makefile(), re.MULTILINE)[1]
    started = [hook['entry'].replace(' --force-exclude', '') for hook in hooks]
    assert started == [f'{venv}/bin/python -m {command}' for command in of_make]


def test_linters_are_pinned():
    pinned = re.findall(r'^(\w+)==[\d.]+$', (ROOT / 'requirements' / 'tests.txt').read_text(), re.MULTILINE)
    started = set(re.findall(r' -m (\w+)', recipe('lint')))
    assert len(started) >= 2 and started <= set(pinned)


def test_types_are_checked_strictly_and_everywhere():
    settings = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['tool']['mypy']
    assert all(settings[flag] is True for flag in STRICT)
    assert settings['files'] == ['mmetris']
    for override in settings['overrides']:
        assert set(override) == {'module', 'ignore_missing_imports'}
        assert not [name for name in override['module'] if name.startswith('mmetris')]


def test_no_error_of_types_is_ignored_without_its_name():
    files = [path for path in (ROOT / 'mmetris').rglob('*.py') if '.mim' not in path.parts]
    assert len(files) > 50
    blanket = re.compile(r'#\s*(type:\s*ignore(?!\[)|mypy:)')
    assert not [path.name for path in files if blanket.search(path.read_text(encoding='utf-8'))]


def test_the_citation_is_complete_and_names_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    assert citation['cff-version'] == '1.2.0' and citation['type'] == 'software'
    assert citation['version'] == __version__
    assert citation['license'] == 'Apache-2.0' and citation['authors'] and citation['message']
    paper = citation['preferred-citation']
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    bibtex = re.search(r'```bibtex\n(.*?)```', readme, re.DOTALL)[1]
    names = [f'{author["family-names"]}, {author["given-names"]}' for author in paper['authors']]
    assert re.search(r'author=\{(.*)\}', bibtex)[1] == ' and '.join(names)
    assert re.search(r'title=\{(.*)\}', bibtex)[1] == paper['title']
    assert re.search(r'booktitle=\{(.*)\}', bibtex)[1] == paper['collection-title']
    assert re.search(r'year=\{(.*)\}', bibtex)[1] == str(paper['year'])


@pytest.mark.parametrize('word', ['encoder', 'tuning method', 'data set', 'head'])
def test_the_guide_has_a_checklist_for_each_kind_of_part(word):
    sections = re.split(r'^## ', (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8'), flags=re.MULTILINE)
    (section,) = [section for section in sections if re.match(rf'Add an? {word}\n', section)]
    assert section.count('- [ ] ') >= 5
    assert 'tests/' in section and 'CHANGELOG.md' in section


def test_files_folders_and_targets_that_the_guide_names_exist():
    guide = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    names = re.findall(r'`([\w.-]+/[\w./-]*|[\w-]+\.\w+)`', guide)
    assert len(names) > 20
    assert not [name for name in names if not (ROOT / name).exists()]
    phony = re.search(r'^\.PHONY: (.*)$', makefile(), re.MULTILINE)[1].split()
    assert not [target for target in re.findall(r'`make ([\w-]+)`', guide) if target not in phony]
