"""Text files of any editor, and text that any file takes."""

from __future__ import annotations

import pytest

from mmetris.evaluation.breakdown import load_word_types
from mmetris.utils.text_files import read_text, writable


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_the_mark_and_the_line_ends_of_an_editor_are_no_text(tmp_path, encoding):
    (tmp_path / 'a.txt').write_bytes('eins\r\nzwölf\rdrei\n狗'.encode(encoding))
    assert read_text(tmp_path / 'a.txt') == 'eins\nzwölf\ndrei\n狗'


@pytest.mark.parametrize('content, line', [(b'caf\xe9', 1), (b'\n\nca\xe9\n', 3), (b'\xff\xfea', 1)])
def test_what_is_no_text_is_named_with_its_line(tmp_path, content, line):
    (tmp_path / 'a.txt').write_bytes(content)
    with pytest.raises(ValueError, match=f'a.txt, line {line}: this is no UTF-8'):
        read_text(tmp_path / 'a.txt')


def test_word_types_may_have_a_byte_order_mark(tmp_path):
    (tmp_path / 'types.json').write_text('{"colour": ["red"]}', encoding='utf-8-sig')
    assert load_word_types(tmp_path / 'types.json') == dict(colour=('red',))


def test_bytes_that_are_no_unicode_are_shown_by_a_replacement():
    assert writable('caf\udce9 狗 \ud800.png') == 'caf\ufffd 狗 \ufffd.png'
    assert writable('café 😀') == 'café 😀'
