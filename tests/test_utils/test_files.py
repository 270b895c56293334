"""Pipes and devices in the place of files are refused, not waited for."""

import os

import pytest

from mmetris.datasets.refer import load_json
from mmetris.datasets.transforms import LoadImageFromFile
from mmetris.utils.files import check_ordinary, read_bytes
from mmetris.utils.image_io import read_image, upright_hw
from mmetris.utils.text_files import read_text

pytestmark = pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='this system has no named pipes')


@pytest.fixture(params=['pipe.png', 'link.png', '/dev/zero'])
def special(request, tmp_path) -> str:
    """A pipe that nobody writes into, a link to it, and a device without an end."""
    os.mkfifo(tmp_path / 'pipe.png')
    (tmp_path / 'link.png').symlink_to(tmp_path / 'pipe.png')
    return str(tmp_path / request.param)


@pytest.mark.parametrize(
    'read',
    [read_bytes, read_image, read_text, load_json, lambda path: LoadImageFromFile()(dict(img_path=path))],
    ids=['bytes', 'picture', 'text', 'annotations', 'data_set'],
)
def test_every_reader_refuses_what_is_no_ordinary_file(special, read):
    with pytest.raises(ValueError, match='is no ordinary file'):
        read(special)


def test_files_folders_and_what_is_missing_pass(tmp_path):
    (tmp_path / 'a.txt').write_text('a')
    for path in (tmp_path / 'a.txt', tmp_path, tmp_path / 'missing', 'a\0b'):
        check_ordinary(path)
    assert read_bytes(tmp_path / 'a.txt') == b'a'


@pytest.mark.parametrize(
    'content', [b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', b'\xd7\xcd\xc6\x9a' + bytes(60)]
)
def test_formats_that_start_other_programs_are_no_pictures(tmp_path, content):
    """Pillow would hand EPS to Ghostscript, whatever the file is called."""
    (tmp_path / 'a.png').write_bytes(content)
    for read in (read_image, lambda path: LoadImageFromFile()(dict(img_path=str(path))), upright_hw):
        with pytest.raises(ValueError, match='cannot be read as an image'):
            read(tmp_path / 'a.png')


@pytest.mark.parametrize('address', ['file:///etc/passwd', 'FILE:///etc/passwd', 'ftp://host/a.png', 'local://a.png'])
def test_addresses_of_other_kinds_are_not_fetched(address):
    with pytest.raises(
        ValueError, match='is not fetched: addresses of http, https, s3, petrel are, and files by their path'
    ):
        read_image(address)
