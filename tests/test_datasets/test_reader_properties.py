"""Whatever stands in one place of a file, a reader takes it or refuses it by the name of the file, before training."""

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmetris.datasets import PhraseCutDataset, RefCocoDataset, RefCocoMDataset, RefZomDataset, TableRefDataset
from tests.test_datasets.test_phrasecut import TASKS, write_phrasecut
from tests.test_datasets.test_refcoco_m import records_of
from tests.test_datasets.test_refzom import write_refzom
from tests.test_datasets.test_table import ROWS, write_folders
from tests.toy_refer import write_toy_refer

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def refer_files(root):
    write_toy_refer(root)
    path = root / 'refcoco'
    refs = pickle.loads((path / 'refs(unc).p').read_bytes())
    (path / 'refs.json').write_text(json.dumps(refs))
    return [path / 'instances.json', path / 'refs.json'], lambda: RefCocoDataset(
        str(root), split_file='refcoco/refs.json'
    )


def refzom_files(root):
    write_refzom(root)
    refs = pickle.loads((root / 'ref-zom' / 'refs(final).p').read_bytes())
    (root / 'refs.json').write_text(json.dumps(refs))
    return [root / 'refs.json'], lambda: RefZomDataset(str(root), split_file='refs.json')


def phrasecut_files(root):
    write_phrasecut(root, TASKS)
    return [root / 'refer_train.json'], lambda: PhraseCutDataset(str(root))


def refcoco_m_files(root):
    write_toy_refer(root)
    (root / 'records.json').write_text(json.dumps(records_of()))
    return [root / 'records.json'], lambda: RefCocoMDataset(str(root), 'records.json')


def table_files(root):
    write_folders(root)
    (root / 'rows.jsonl').write_text(json.dumps(ROWS))
    return [root / 'rows.jsonl'], lambda: TableRefDataset(str(root), 'rows.jsonl', split=None)


FILES = dict(
    refer=refer_files, refzom=refzom_files, phrasecut=phrasecut_files, refcoco_m=refcoco_m_files, table=table_files
)


@pytest.fixture(scope='module', params=FILES)
def reader(request, tmp_path_factory):
    """Files with their content as it should be, and what reads them."""
    root = tmp_path_factory.mktemp(request.param)
    paths, read = FILES[request.param](root)
    return root, {path: path.read_text() for path in paths}, read


def places(node):
    """Every dict or list with one of its keys."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield node, key
        yield from places(value)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_value_in_any_place_is_read_or_refused_by_name(reader, data):
    root, files, read = reader
    path = data.draw(st.sampled_from(sorted(files)))
    content = json.loads(files[path])
    holder, key = data.draw(st.sampled_from(list(places(content))))
    if data.draw(st.booleans()):
        holder[key] = data.draw(VALUES)
    else:
        del holder[key]
    for other, text in files.items():
        other.write_text(text)
    if path.suffix == '.jsonl':
        path.write_text(''.join(json.dumps(row) + '\n' for row in content))
    else:
        path.write_text(json.dumps(content))
    try:
        dataset = read()
    except (ValueError, FileNotFoundError) as error:
        assert str(root) in str(error)
        return
    for index in range(len(dataset)):
        record = dataset.get_data_info(index)
        assert all(isinstance(text, str) and text.strip() for text in record['expressions'])
        assert record['segmentation']['size'] == [record['height'], record['width']]
