"""Write the tables of models in ``configs/*/README.md`` from the ``metafile.yml`` beside each.

    python tools/misc/model_tables.py            # after a metafile has changed
    python tools/misc/model_tables.py --check    # writes nothing; exit status 1 where a table is stale

A table stands between two comments, of which the first may say what is in it::

    <!-- models table="5" metrics="mIoU" also="etris_r101_refcoco" -->
    <!-- end of models -->

``table``: models whose ``Paper Table`` has this number, as in ``5`` or ``2, 8``, or this word, as in ``none`` (default:
all). ``metrics``: names, separated by commas (default: all that the models have). ``also``: rows at the end from other
metafiles, which add no columns. Columns are the name, the ``Metadata`` with "Parameters" in their names, and the
``Results``, the splits of one data set in one column for each metric. Models of one name but for the data set at its
end share a row.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
# At the end of a config's name, with the longest first. Those of gRefCOCO and Ref-ZOM have a head more, so they have
# rows of their own.
DATA_SETS = (
    'pascal-context-59',
    'refcocog_google',
    'refcocog_umd',
    'cityscapes',
    'refcocoplus',
    'refcoco_m',
    'phrasecut',
    'ade20k',
    'refclef',
    'refcoco',
    'refsegrs',
    'rrsisd',
    'shapes',
    'table',
    'voc20',
)
END = '<!-- end of models -->'
BLOCK = re.compile(rf'<!-- models(?P<options>(?: \w+="[^"\n]*")*) -->\n(?P<table>.*?){END}', re.DOTALL)
OPTIONS = {'table', 'metrics', 'also'}
MISSING = '-'
# Of a model that tunes nothing of the backbone but its Bridger, whose metafile says so under the name of the part.
SAME_COUNT = {
    'Backbone Parameters': 'Bridger Parameters',
    'Backbone Parameters (M)': 'Bridger Parameters (M)',
    'Head Parameters': 'Decoder Parameters',
}


def read_models(folder: Path) -> dict[str, dict[str, Any]]:
    """Models of a folder's ``metafile.yml`` by name, in its order."""
    content = yaml.safe_load((folder / 'metafile.yml').read_text(encoding='utf-8'))
    return {model['Name']: model for model in content['Models']}


def scores(model: dict[str, Any]) -> dict[tuple[str, str], dict[str, float]]:
    """A model's results: (data set, metric) -> split -> value. ``RefCOCO val`` is the split val of RefCOCO."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for result in model.get('Results', []):
        data, _, split = result['Dataset'].rpartition(' ')
        for metric, value in result['Metrics'].items():
            found.setdefault((data, metric), {})[split] = value
    return found


def _sentence_case(key: str) -> str:
    """``Text Encoder Parameters`` -> ``Text encoder parameters``; what is in brackets stays."""
    first, *others = key.split()
    return ' '.join([first, *(word if word.startswith('(') else word.lower() for word in others)])


def parameters(model: dict[str, Any]) -> dict[str, int | float]:
    """What a model's metadata say of parameters."""
    return {key: value for key, value in model['Metadata'].items() if 'Parameters' in key.split()}


def is_run_here(model: dict[str, Any]) -> bool:
    """Whether a model's results were measured by us; what does not say so was not."""
    return bool(model['Metadata'].get('Run Here', False))


def as_text(value: int | float | str | None) -> str:
    """A cell: whole numbers with commas, others with two decimals, as the paper prints them."""
    if value is None:
        return MISSING
    return f'{value:,}' if isinstance(value, int) else f'{value:.2f}' if isinstance(value, float) else value


def grouped(models: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows: models that differ in the data set alone, under a pattern of their names, others under their own name.

    Raises:
        ValueError: If such models do not have the same parameters.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, model in models.items():
        stem = next((name.removesuffix(f'_{data}') for data in DATA_SETS if name.endswith(f'_{data}')), name)
        groups.setdefault(stem, []).append(model)
    for stem, group in groups.items():
        if any(parameters(model) != parameters(group[0]) for model in group):
            raise ValueError(f'models {stem}_* share a row, but not what their metadata say of parameters')
    return {f'{stem}_*' if len(group) > 1 else group[0]['Name']: group for stem, group in groups.items()}


def make_table(
    models: dict[str, dict[str, Any]], others: dict[str, tuple[str, dict[str, Any]]], metrics: list[str] | None = None
) -> str:
    """A table in Markdown, and a line that says what was run here.

    Args:
        models: Models by name.
        others: More of them for the last rows, each with the link of where it belongs.
        metrics: Metrics to show. Defaults to None: all that ``models`` have.

    Raises:
        ValueError: If there is no model, no model has one of the metrics, or models that share a row do not agree.
    """
    if not models:
        raise ValueError('no model belongs into the table')
    counts = list(dict.fromkeys(key for model in models.values() for key in parameters(model)))
    columns: dict[tuple[str, str], list[str]] = {}
    for model in models.values():
        for column, values in scores(model).items():
            if metrics is None or column[1] in metrics:
                columns[column] = list(dict.fromkeys([*columns.get(column, []), *values]))
    if unknown := set(metrics or []) - {metric for _, metric in columns}:
        raise ValueError(f'no model has the metric {sorted(unknown)[0]}')
    everything = [*models.values(), *(model for _, model in others.values())]
    is_mixed = len(set(map(is_run_here, everything))) > 1

    heads = ['config', *(_sentence_case(key) for key in counts)]
    heads += [' '.join(filter(None, [data, ' / '.join(splits), metric])) for (data, metric), splits in columns.items()]
    rows = [heads + ['run here'] * is_mixed, ['---'] * (len(heads) + is_mixed)]
    groups = [(f'`{label}`', group) for label, group in grouped(models).items()]
    groups += [(f'[`{name}`]({link})', [model]) for name, (link, model) in others.items()]
    for label, group in groups:
        known = {column: values for model in group for column, values in scores(model).items()}
        own = parameters(group[0])
        row = [label, *(as_text(own.get(key, own.get(SAME_COUNT.get(key, '')))) for key in counts)]
        for column, splits in columns.items():
            values = [as_text(known.get(column, {}).get(split)) for split in splits]
            row.append(MISSING if set(values) == {MISSING} else ' / '.join(values))
        rows.append(row + ['yes' if all(map(is_run_here, group)) else 'no'] * is_mixed)
    lines = [f'| {" | ".join(row)} |' for row in rows]
    if not any(map(is_run_here, everything)):
        lines += ['', "**Not run here:** the results are the paper's." if columns else '**Not run here.**']
    return '\n'.join(lines) + '\n'


def rewrite(readme: Path) -> str:
    """The text of a README with its tables made anew.

    Args:
        readme: The file, beside a ``metafile.yml``; models of ``also`` are in those of the folders beside it.

    Raises:
        ValueError: If it has no table, a comment without its end, an unknown option, or one that names no model.
    """
    text = readme.read_text(encoding='utf-8')
    own = read_models(readme.parent)
    elsewhere = {
        name: (f'../{path.parent.name}/README.md', model)
        for path in sorted(readme.parent.parent.glob('*/metafile.yml'))
        for name, model in read_models(path.parent).items()
    }

    def table(block: re.Match) -> str:
        options = dict(re.findall(r'(\w+)="(.*?)"', block['options']))
        if unknown := set(options) - OPTIONS:
            raise ValueError(f'unknown option {sorted(unknown)[0]!r}; there are {", ".join(sorted(OPTIONS))}')
        listed = {key: re.split(r',\s*', options[key]) for key in ('metrics', 'also') if key in options}
        if missing := set(listed.get('also', [])) - set(elsewhere):
            raise ValueError(f'no metafile has the model {sorted(missing)[0]}')
        chosen = {
            name: model
            for name, model in own.items()
            if 'table' not in options
            or options['table'] in re.findall(r'\w+', str(model['Metadata'].get('Paper Table', '')))
        }
        others = {name: elsewhere[name] for name in listed.get('also', [])}
        return f'<!-- models{block["options"]} -->\n\n{make_table(chosen, others, listed.get("metrics"))}\n{END}'

    try:
        if not BLOCK.search(text):
            raise ValueError(f'no table: write <!-- models --> and {END} where it is to stand')
        if not text.count('<!-- models') == text.count(END) == len(BLOCK.findall(text)):
            raise ValueError(f'<!-- models ... --> and {END} must stand in pairs, options written as name="value"')
        return BLOCK.sub(table, text)
    except ValueError as error:
        raise ValueError(f'{readme}: {error}') from error


def main(arguments: list[str] | None = None) -> None:
    """Rewrite the tables, or check them."""
    parser = argparse.ArgumentParser(description='Write the tables of models in the READMEs of configs')
    parser.add_argument('--check', action='store_true', help='write nothing; exit status 1 where a table is stale')
    parser.add_argument(
        '--configs', type=Path, default=ROOT / 'configs', help="folder of configs; default: this copy's"
    )
    args = parser.parse_args(arguments)
    stale = []
    for metafile in sorted(args.configs.glob('*/metafile.yml')):
        readme = metafile.with_name('README.md')
        if not readme.is_file():
            parser.error(f'{metafile} has no README.md beside it')
        try:
            text = rewrite(readme)
        except ValueError as error:
            parser.error(str(error))
        if text != readme.read_text(encoding='utf-8'):
            stale.append(readme)
            if not args.check:
                readme.write_text(text, encoding='utf-8')
    for readme in stale:
        print(f'{readme}: {"stale; run python tools/misc/model_tables.py" if args.check else "written"}')
    if args.check and stale:
        sys.exit(1)


if __name__ == '__main__':
    main()
