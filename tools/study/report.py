"""Write what a study has found so far: tables in Markdown and a plot.

    python tools/study/report.py studies/shapes_tables.yaml docs/study/shapes_tables.jsonl --out work_dirs/report
    python tools/study/report.py --document docs/study.md            # the parts of a document that are made of studies
    python tools/study/report.py --document docs/study.md --check    # writes nothing; exit status 1 where one is stale

In a document a report stands between two comments, and its plot beside the results, under the name of the study::

    <!-- study file="studies/shapes_tables.yaml" results="docs/study/shapes_tables.jsonl" -->
    <!-- end of study -->

A mean stands with the standard deviation over the seeds. A difference is the mean over the seeds of a variant's score
less that of the reference trained with the same seed, which had the same order of samples and the same initial weights
of what both have; the interval is Student's, for 95 %. Results of configs that are others now are told and left out.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')

import pandas as pd
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

sys.path[:0] = [
    str(Path(__file__).resolve().parents[1] / 'misc'),
    str(Path(__file__).resolve().parent),
    str(Path(__file__).resolve().parents[2]),
]

from model_tables import read_models  # noqa: E402
from model_tables import scores as scores_of_model  # noqa: E402
from study import ROOT, Job, Study, read_lines, read_study  # noqa: E402

from mmetris.utils.param_count import table_columns  # noqa: E402
from mmetris.utils.text_files import read_text  # noqa: E402
from mmetris.utils.work_folder import write_text  # noqa: E402

END = '<!-- end of study -->'
BLOCK = re.compile(
    rf'<!-- study file="(?P<file>[^"]+)" results="(?P<results>[^"]+)" -->\n(?P<text>.*?){END}', re.DOTALL
)
NONE = '-'


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description='Report of a study')
    parser.add_argument('study', type=Path, nargs='?', help='study file (studies/*.yaml)')
    parser.add_argument('results', type=Path, nargs='?', help='file of results that tools/study/run.py wrote')
    parser.add_argument('--out', type=Path, help='folder for report.md and report.png')
    parser.add_argument('--document', type=Path, help='document whose parts are written anew instead')
    parser.add_argument('--check', action='store_true', help='with --document: only look whether it is stale')
    return parser


def mean_and_interval(differences: Sequence[float]) -> tuple[float, float | None]:
    """Mean of paired differences, and half the width of its 95 % interval (Student's t); None for a single one.

    Args:
        differences: One for each seed.
    """
    values = pd.Series(differences, dtype=float)
    if len(values) < 2:
        return float(values.mean()), None
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * values.std() / len(values) ** 0.5)


class Report:
    """What the lines of a study say.

    Args:
        study: The study.
        lines: Lines of results, in the order in which they were written; those of other studies that have the same
            trainings count too.

    Attributes:
        table: A row for each job that is over: ``setting``, ``variant``, ``samples`` (0 for the config's own schedule),
            ``seed``, ``is_search``, ``value``, its costs and its scores by name.
        missing: Jobs that are not over.
        failed: The last line of each job that has failed and not succeeded since.
        known: The lines that count.
        stale: Those of them of which there are results of another config.
    """

    def __init__(self, study: Study, lines: Iterable[dict[str, Any]]) -> None:
        self.study = study
        lines = list(lines)
        known: dict[str, dict[str, Any]] = {}
        for line in lines:
            if 'scores' in line or 'scores' not in known.get(line['hash'], {}):
                known[line['hash']] = line
        self.known = list(known.values())
        self.missing, self.stale, self.failed, rows = [], [], [], []
        jobs = study.jobs()
        for job in jobs:
            chosen = study.with_value(job, self.known)
            line = None if chosen is None else known.get(study.hash_of(chosen))
            if line is None:
                self.missing.append(job)
                if chosen is not None and any(other['job'] == job.name for other in lines):
                    self.stale.append(job)
            elif 'scores' in line:
                rows.append(_row(job, line))
            else:
                self.failed.append(line)
        self.table = pd.DataFrame(rows)
        self.num_jobs = len(jobs)

    @property
    def score(self) -> str:
        """The score that differences are taken of: that of the search, or mIoU of the first split."""
        return self.study.search['score'] if self.study.search else f'{self.study.test[0]}/mIoU'

    def runs(self) -> pd.DataFrame:
        """The rows that are compared: those of the search are not."""
        return self.table[~self.table.is_search] if len(self.table) else self.table

    @property
    def has_plot(self) -> bool:
        """Whether there is something to draw: of one budget, differences from the reference or, without one, scores."""
        runs = self.runs()
        budgets = sorted(set(runs.samples)) if len(runs) else []
        if len(budgets) != 1 or self.study.reference is None:
            return bool(budgets)
        return any(self.differences(*names, budgets[0], self.score) for names, _ in self._compared(runs))

    def _compared(self, runs: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
        """The rows of each setting and variant but those of the reference."""
        groups = runs.groupby(['setting', 'variant'], sort=False)
        return [group for group in groups if group[0][1] != self.study.reference]

    def differences(self, setting: str, variant: str, samples: int, score: str) -> list[float]:
        """Score less that of the reference, for each seed that both have.

        Args:
            setting: Name of the setting.
            variant: Name of the variant.
            samples: Training samples.
            score: Name of the score.
        """
        runs = self.runs()
        runs = runs[(runs.setting == setting) & (runs.samples == samples)]
        if score not in runs:
            return []
        own, other = (runs[runs.variant == name].set_index('seed')[score] for name in (variant, self.study.reference))
        return (own - other).dropna().tolist()

    def markdown(self, plot: str | None = None) -> str:
        """The report.

        Args:
            plot: Path of the plot, as the text names it. Defaults to None: there is none.
        """
        over = self.num_jobs - len(self.missing) - len(self.failed)
        parts = [f'{over} of {self.num_jobs} jobs are over.']
        if len(self.table) and len(self.runs()):
            parts += self._hypotheses()
            parts += [self._scores(runs, samples) for samples, runs in self.runs().groupby('samples', sort=False)]
        if plot is not None and len(self.table):
            parts.append(f'![Differences and scores]({plot})')
        if self.study.search is not None and len(self.table):
            parts.append(self._search())
        if len(self.table):
            parts.append(self._costs())
        parts += [f'`{line["job"]}` failed ({line["failed"]}):\n\n```\n{line["log"]}\n```' for line in self.failed]
        if self.stale:
            stale = ', '.join(f'`{job.name}`' for job in self.stale)
            parts.append(f'Left out, since their configs are others now: {stale}.')
        if self.missing and over:
            left = Counter(' '.join(filter(None, [job.setting, job.variant])) for job in self.missing)
            parts.append(f'Not run yet, jobs: {", ".join(f"`{name}` {count}" for name, count in left.items())}.')
        return '\n\n'.join(parts) + '\n'

    @property
    def has_settings(self) -> bool:
        """Whether there are several settings, which tables then name."""
        return len(self.study.settings) > 1

    def _setting_cells(self, setting: str) -> list[str]:
        """The cell that names a setting, where there are several."""
        return [f'`{setting}`'] if self.has_settings else []

    def _hypotheses(self) -> list[str]:
        """A list of the settings of which there are results, with their hypotheses."""
        done = set(self.runs().setting)
        told = {name: (own or {}).get('hypothesis') for name, own in self.study.settings.items() if name in done}
        lines = [f'- `{name}`: {text.strip()}' for name, text in told.items() if text]
        return ['\n'.join(lines)] if lines else []

    def _scores(self, runs: pd.DataFrame, samples: int) -> str:
        """Means, spread and differences of one budget: of the splits, then of the kinds of sentences."""
        title = f'**{samples:,} samples**' if samples else "**The configs' own schedules**"
        # A training that another study has tested may lack a split.
        splits = [name for name in dict.fromkeys([self.score, *map('{}/mIoU'.format, self.study.test)]) if name in runs]
        kinds = [name for name in runs if name.startswith(f'{self.score} of ')]
        papers = self.papers
        base = papers.get(self.study.reference)
        if all(paper is None for paper in papers.values()):
            papers = {}
        less = [] if self.study.reference is None else [f'less `{self.study.reference}`']
        first = ['setting'] * self.has_settings + ['variant']
        heads = [*first, 'tunable beside the head', 'seeds', *(head for name in splits for head in (name, *less))]
        heads += ['paper', *less] if papers else []
        rows, rows_of_kinds = [], []
        for setting, variant in itertools.product(self.study.settings, self.study.variants):
            own = runs[(runs.setting == setting) & (runs.variant == variant)]
            if own.empty:
                continue
            names = [*self._setting_cells(setting), f'`{variant}`']
            cells = [cell for name in splits for cell in self._cells(own, name)]
            if papers:
                paper, is_paired = papers[variant], variant != self.study.reference
                cells.append(NONE if paper is None else f'{paper:.2f}')
                cells += less and [f'{paper - base:+.2f}' if is_paired and None not in (paper, base) else NONE]
            rows.append([*names, f'{own.tunable.iloc[-1]:,}', str(len(own)), *cells])
            rows_of_kinds.append([*names, *(cell for name in kinds for cell in self._cells(own, name))])
        parts = [title, markdown_table(heads, rows)]
        if kinds:
            names = [name.replace('/', ' ') for name in kinds]
            heads = [*first, *(head for name in names for head in (name, *less))]
            parts.append(markdown_table(heads, rows_of_kinds))
        return '\n\n'.join(parts)

    def _cells(self, own: pd.DataFrame, score: str) -> list[str]:
        """Mean and spread of a variant's runs, and the difference from the reference where there is one."""
        scores = own[score].dropna()  # A kind of sentences that this setting lacks has none.
        spread = f' ± {scores.std():.2f}' if len(scores) > 1 else ''
        cells = [f'{scores.mean():.2f}{spread}' if len(scores) else NONE]
        if self.study.reference is not None:
            first = own.iloc[0]
            cells.append(self._difference(first.setting, first.variant, first.samples, score))
        return cells

    def _difference(self, setting: str, variant: str, samples: int, score: str) -> str:
        differences = self.differences(setting, variant, samples, score)
        if variant == self.study.reference or not differences:
            return NONE
        mean, half = mean_and_interval(differences)
        return f'{mean:+.2f}' + ('' if half is None else f' ({mean - half:+.2f} to {mean + half:+.2f})')

    @cached_property
    def papers(self) -> dict[str, float | None]:
        """The paper's figure of each variant, for table and picture: it takes reading all metafiles."""
        return {name: self._paper(name) for name in self.study.variants}

    def _paper(self, variant: str) -> float | None:
        """The paper's figure of the score in question, from the metafiles."""
        name = (self.study.variants[variant] or {}).get('paper')
        if name is None:
            return None
        split, metric = self.score.split('/')
        for metafile in sorted((ROOT / 'configs').glob('*/metafile.yml')):
            if name in (models := read_models(metafile.parent)):
                found = scores_of_model(models[name]).get(('RefCOCO', metric), {})
                return found.get(split)
        raise ValueError(f'{self.study.path}: variants.{variant}.paper: no metafile has a model {name}')

    def _search(self) -> str:
        """Scores of the values that were tried."""
        search = self.study.search
        found = self.table[self.table.is_search]
        rows = []
        values = [str(value) for value in search['values']]
        for (setting, variant), own in found.groupby(['setting', 'variant'], sort=False):
            scores = {str(value): score for value, score in zip(own.value, own[search['score']])}
            chosen = self.study.with_value(
                Job(setting, variant, self.study.samples[0], self.study.seeds[0]), self.known
            )
            best = None if chosen is None else str(chosen.value)
            cells = [f'{scores[value]:.2f}' if value in scores else NONE for value in values]
            cells = [f'**{cell}**' if value == best else cell for value, cell in zip(values, cells)]
            at_edge = 'yes' if len(values) > 2 and best in (values[0], values[-1]) else 'no' if best else NONE
            rows.append([*self._setting_cells(setting), f'`{variant}`', *cells, at_edge])
        heads = ['setting'] * self.has_settings + ['variant', *values, 'best at the edge']
        text = f'{search["score"]} for each `{search["option"]}`, seed {search["seed"]}, which is in no other table:'
        return f'{text}\n\n{markdown_table(heads, rows)}'

    def _costs(self) -> str:
        """What a step and a training cost, by machine and variant: of the job that other work disturbed least."""
        keys = ['machine', 'setting', 'samples', 'variant']
        rows = []
        # A machine after the other, for times of two machines say nothing of two variants.
        by_machine = self.table.sort_values('machine', kind='stable')
        for (machine, setting, samples, variant), own in by_machine.groupby(keys, sort=False):
            cpu = own.cpu_seconds.min()
            rows.append(
                [
                    machine,
                    *self._setting_cells(setting),
                    f'{samples:,}' if samples else 'all',
                    f'`{variant}`',
                    f'{own.step_ms.min():.0f}',
                    NONE if pd.isna(cpu) else f'{cpu:.0f}',
                    f'{own.peak_mb.median():.0f}',
                ]
            )
        heads = ['samples', 'variant', 'step (ms)', 'training, time on cores (s)', 'peak memory (MB)']
        return markdown_table(['machine', *['setting'] * self.has_settings, *heads], rows)

    def plot(self, path: Path) -> None:
        """Draw differences with their intervals, or with several budgets the scores over the samples.

        Args:
            path: A picture to write.
        """
        runs = self.runs()
        budgets = sorted(set(runs.samples))
        if len(budgets) == 1:
            figure = self._draw_differences(runs, budgets[0])
        else:
            figure = self._draw_budgets(runs, budgets)
        figure.savefig(path, dpi=120, metadata={'Software': None})
        pyplot.close(figure)

    def _draw_differences(self, runs: pd.DataFrame, samples: int) -> Figure:
        """A line for each setting and variant, its seeds as small dots; without a reference the scores themselves."""
        reference = self.study.reference
        groups = self._compared(runs)
        figure, axis = pyplot.subplots(figsize=(7, 0.9 + 0.28 * max(1, len(groups))), layout='constrained')
        for line, ((setting, variant), own) in enumerate(groups):
            values = own[self.score].tolist()
            if reference is not None:
                values = self.differences(setting, variant, samples, self.score)
            if values:
                mean, half = mean_and_interval(values)
                axis.plot(values, [line] * len(values), '.', color='tab:gray', markersize=5)
                axis.errorbar(mean, line, xerr=half, marker='o', color='tab:blue', capsize=3)
        if reference is not None:
            axis.axvline(0, color='black', linewidth=0.8)
            self._draw_paper(axis, [variant for (_, variant), _ in groups])
        axis.set(
            xlabel=self.score if reference is None else f'{self.score} less that of {reference}, points',
            yticks=range(len(groups)),
            yticklabels=[' '.join(filter(None, names)) for names, _ in groups],
            ylim=(len(groups) - 0.5, -0.5),
        )
        axis.grid(alpha=0.3)
        return figure

    def _draw_paper(self, axis: Axes, variants: Sequence[str]) -> None:
        """Mark the paper's differences, on the lines of the variants for which it has figures."""
        papers = self.papers
        base = papers[self.study.reference]
        if base is None:
            return
        points = [(papers[name] - base, line) for line, name in enumerate(variants) if papers[name] is not None]
        if points:
            label = f'the paper, RefCOCO {self.score.split("/")[0]}'
            axis.plot(*zip(*points), 'D', color='tab:red', markerfacecolor='none', label=label)
            axis.legend(frameon=False, fontsize=8, loc='lower right', bbox_to_anchor=(1, 1), borderaxespad=0)

    def _draw_budgets(self, runs: pd.DataFrame, budgets: Sequence[int]) -> Figure:
        """Scores over samples, a picture for each setting."""
        settings = list(runs.groupby('setting', sort=False))
        figure, axes = pyplot.subplots(
            len(settings), 1, figsize=(7, 3.5 * len(settings)), layout='constrained', squeeze=False, sharex=True
        )
        for axis, (setting, own) in zip(axes[:, 0], settings):
            for variant, trained in own.groupby('variant', sort=False):
                scores = trained.groupby('samples')[self.score]
                mean = scores.mean()
                axis.errorbar(mean.index, mean, scores.std(), marker='o', capsize=3, label=variant)
            axis.set(xscale='log', xlabel='samples', ylabel=self.score)
            axis.set_title(setting, fontsize=9, loc='left')
            axis.set_xticks(budgets, [f'{samples:,}' for samples in budgets])
            axis.set_xticks([], minor=True)
            axis.legend(frameon=False, fontsize=8)
            axis.grid(alpha=0.3)
        return figure


def _row(job: Job, line: dict[str, Any]) -> dict[str, Any]:
    columns = table_columns(line['parameters'])
    return dict(
        setting=job.setting,
        variant=job.variant,
        samples=job.samples or 0,
        seed=job.seed,
        is_search=job.is_search,
        value=line['value'],
        tunable=columns['Backbone'] + columns['Prompt'],
        step_ms=line['step_ms'],
        cpu_seconds=line['cpu_seconds'],
        peak_mb=line['peak_mb'],
        machine=line['machine']['device'],
        **line['scores'],
    )


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown.

    Args:
        heads: The first row.
        rows: The others.
    """
    return '\n'.join(f'| {" | ".join(row)} |' for row in [heads, ['---'] * len(heads), *rows])


def write_document(path: Path, check: bool) -> list[str]:
    """Write the parts of a document that are made of studies, and their plots.

    Args:
        path: The document.
        check: Whether nothing is written.

    Returns:
        Study files whose part is not as it should be.
    """
    stale = []
    text = read_text(path)

    def renewed(match: re.Match) -> str:
        results = ROOT / match['results']
        report = Report(read_study(ROOT / match['file']), read_lines(results))
        plot = results.with_name(f'{Path(match["file"]).stem}.png')  # Several studies may share their results.
        if report.has_plot and not check:
            report.plot(plot)
        name = plot.relative_to(path.resolve().parent).as_posix() if report.has_plot else None
        begin = match[0][: match.start('text') - match.start()]
        block = f'{begin}\n{report.markdown(name)}\n{END}'
        if block != match[0]:
            stale.append(match['file'])
        return block

    renewed_text = BLOCK.sub(renewed, text)
    if stale and not check:
        write_text(path, renewed_text)
    return stale


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report; 1 if ``--check`` found a stale part."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        if args.document is not None:
            stale = write_document(args.document, args.check)
            for file in stale if args.check else ():
                print(f'{args.document}: the part of {file} is stale; run tools/study/report.py --document')
            return int(bool(stale and args.check))
        if None in (args.study, args.results, args.out):
            parser.error('give a study file, its results and --out, or --document')
        report = Report(read_study(args.study), read_lines(args.results))
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    if report.has_plot:
        report.plot(args.out / 'report.png')
    heads = [f'# {report.study.title or args.study.stem}', report.study.question.strip()]
    text = '\n\n'.join([*filter(None, heads), report.markdown('report.png' if report.has_plot else None)])
    write_text(args.out / 'report.md', text)
    print(text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
