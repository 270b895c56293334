"""read_image: any picture becomes (H, W, 3) uint8 BGR, upright, or is refused in one sentence."""

import http.server
import io
import struct
import threading
import warnings
import zlib

import mmcv
import numpy as np
import pytest
from PIL import Image

from mmetris.datasets.transforms import LoadImageFromFile
from mmetris.utils import image_io
from mmetris.utils.image_io import decode_image, image_name, list_images, read_image
from tests.toy_inference import picture

RGB = picture()
BGR = RGB[..., ::-1]


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of(width: int, height: int, bits: int, rows: bytes) -> bytes:
    """A colour PNG by hand, for what Pillow does not write."""

    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, bits, 2, 0, 0, 0))
        + chunk(b'IDAT', zlib.compress(rows))
        + chunk(b'IEND', b'')
    )


@pytest.fixture
def png(tmp_path):
    path = tmp_path / 'a picture.png'
    Image.fromarray(RGB).save(path)
    return path


def test_every_kind_of_source_gives_the_same_pixels(png):
    for source in (png, str(png), png.read_bytes(), BGR, Image.open(png), Image.fromarray(RGB)):
        pixels = read_image(source)
        assert np.array_equal(pixels, BGR) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous


def test_an_address_is_downloaded(png, monkeypatch):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(png.parent))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f'http://127.0.0.1:{server.server_port}/a%20picture.png?size=full'
        assert np.array_equal(read_image(address), BGR)
        assert image_name(address) == 'a%20picture.png'
        with pytest.raises(ValueError, match='the server answered 404'):
            read_image(address.replace('picture', 'nothing'))
        monkeypatch.setattr(image_io, 'MAX_DOWNLOAD_BYTES', 1000)
        with pytest.raises(ValueError, match='larger than'):
            read_image(address)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(ValueError, match='cannot be read'):
        read_image(address)


@pytest.mark.parametrize('mode', ['RGB', 'L'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_jpeg_is_turned_upright_and_is_what_a_data_pipeline_sees(tmp_path, mode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / 'a.jpg'
    path.write_bytes(encoded(Image.fromarray(RGB).convert(mode), 'JPEG', exif=exif))
    pixels = read_image(path)
    assert np.array_equal(pixels, mmcv.imread(str(path)))
    assert pixels.shape == ((48, 80, 3) if orientation < 5 else (80, 48, 3))


def test_orientation_counts_in_a_png_and_in_a_pil_image_too():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned to the left: upright is a quarter turn clockwise
    content = encoded(Image.fromarray(RGB), 'PNG', exif=exif)
    upright = np.rot90(BGR, -1)
    assert np.array_equal(read_image(content), upright)
    assert np.array_equal(read_image(Image.open(io.BytesIO(content))), upright)


def test_transparent_parts_are_white_or_the_background():
    opacity = np.full((48, 80), 255, np.uint8)
    opacity[:10], opacity[10:20] = 0, 128
    rgba = Image.fromarray(np.dstack([RGB, opacity]))
    for source in (
        rgba,
        encoded(rgba, 'PNG'),
        encoded(rgba, 'WEBP', lossless=True, exact=True),
        np.dstack([BGR, opacity]),
    ):
        pixels = read_image(source).astype(int)
        assert (pixels[:10] == 255).all() and np.array_equal(pixels[20:], BGR[20:])
        assert np.abs(pixels[10:20] - (BGR[10:20].astype(int) * 128 / 255 + 127)).max() <= 1
    assert (read_image(encoded(rgba, 'PNG'), background=(255, 0, 0))[:10] == (0, 0, 255)).all()
    grey = Image.fromarray(np.dstack([RGB[..., 0], opacity]))
    assert (read_image(encoded(grey, 'PNG'))[:10] == 255).all()


def test_a_palette_with_a_transparent_colour_is_composed_and_one_without_is_plain():
    indices = np.zeros((4, 6), np.uint8)
    indices[:, 3:] = 1
    image = Image.fromarray(indices).convert('L')
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert read_image(encoded(image, 'PNG'))[0, [0, 5]].tolist() == [[30, 20, 10], [60, 50, 40]]
    assert read_image(encoded(image, 'PNG', transparency=1))[0, [0, 5]].tolist() == [[30, 20, 10], [255, 255, 255]]


def test_grey_and_sixteen_bits_and_cmyk_become_colour():
    grey = RGB[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    deep = grey.astype(np.uint16) * 257
    sources = [
        grey,
        grey[..., None],
        encoded(Image.fromarray(grey), 'PNG'),
        deep,
        encoded(Image.fromarray(deep), 'PNG'),
        encoded(Image.fromarray(deep), 'TIFF'),
        encoded(Image.fromarray(deep.astype(np.int32)), 'TIFF'),
        encoded(Image.fromarray((grey / np.float32(255)).astype(np.float32)), 'TIFF'),
    ]
    for source in sources:
        assert np.array_equal(read_image(source), expected)
    assert np.array_equal(read_image(grey > 100), np.repeat(((grey > 100) * 255)[..., None], 3, axis=2))
    cmyk = Image.fromarray(RGB).convert('CMYK')
    assert np.abs(read_image(encoded(cmyk, 'TIFF')).astype(int) - BGR).max() <= 2
    assert np.abs(read_image(encoded(cmyk, 'JPEG', quality=100, subsampling=0)).astype(int) - BGR).max() <= 12


def test_a_sixteen_bit_colour_png_keeps_its_upper_bytes():
    deep = RGB.astype(np.uint16) * 256 + 77
    rows = b''.join(b'\0' + row.tobytes() for row in deep.astype('>u2'))
    assert np.array_equal(read_image(png_of(80, 48, 16, rows)), BGR)


@pytest.mark.parametrize('kind', ['GIF', 'WEBP', 'PNG', 'TIFF'])
def test_of_an_animation_the_first_frame_is_used_with_one_warning(kind):
    frames = [Image.new('RGB', (20, 10), colour) for colour in ('red', 'lime', 'blue')]
    options = dict(lossless=True) if kind == 'WEBP' else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with pytest.warns(UserWarning, match='3 frames; only the first') as caught:
        pixels = read_image(content)
    assert len(caught) == 1 and (pixels == (0, 0, 255)).all()


def test_a_still_picture_brings_no_warning(png):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        read_image(png)


def test_a_huge_picture_is_refused_before_it_is_decoded(png):
    for width in (10000, 30000):  # Pillow itself draws its line in between.
        bomb = png_of(width, 20000, 8, b'')  # says so many pixels and has none
        with pytest.raises(ValueError, match='too large'):
            read_image(bomb)
    for source in (png, BGR, Image.open(png)):
        with pytest.raises(ValueError, match='80 x 48 pixels; at most 3000'):
            read_image(source, max_pixels=3000)
        assert read_image(source, max_pixels=48 * 80).shape == (48, 80, 3)


def test_what_is_no_picture_is_named_in_one_line(tmp_path, png):
    (tmp_path / 'empty.png').touch()
    (tmp_path / 'text.jpg').write_text('not a picture')
    (tmp_path / 'half.png').write_bytes(png.read_bytes()[:-2000])
    jpeg = encoded(Image.fromarray(RGB), 'JPEG')
    (tmp_path / 'half.jpg').write_bytes(jpeg[:-300])
    for name, words in {
        'empty.png': 'is empty',
        'text.jpg': 'no known format',
        'half.png': 'cannot be read',
        'half.jpg': 'truncated',
    }.items():
        with pytest.raises(ValueError, match=f'{name}.*{words}') as caught:
            read_image(tmp_path / name)
        assert '\n' not in str(caught.value)
    with pytest.raises(FileNotFoundError, match='image not found: .*none.png'):
        read_image(tmp_path / 'none.png')
    with pytest.raises(ValueError, match='is a folder'):
        read_image(tmp_path)
    for source in (None, 3, [1]):
        with pytest.raises(TypeError, match='an image is'):
            read_image(source)


@pytest.mark.parametrize(
    'array, words',
    [
        (np.zeros((0, 5, 3), np.uint8), 'no pixels: 5 x 0'),
        (np.zeros((5, 0), np.uint8), 'no pixels'),
        (np.zeros((5, 5, 2), np.uint8), r'shape \(5, 5, 2\)'),
        (np.zeros(5, np.uint8), 'shape'),
        (np.zeros((5, 5, 3), np.float32), 'float32.*uint8'),
        (np.zeros((5, 5, 3), np.int64), 'int64'),
    ],
)
def test_an_array_that_is_no_picture_is_refused(array, words):
    with pytest.raises(ValueError, match=words):
        read_image(array)


def test_fractions_outside_of_their_scale_are_refused():
    values = np.array([[0.5, np.nan]], np.float32)
    with pytest.raises(ValueError, match='has 0 to 1'):
        read_image(encoded(Image.fromarray(values), 'TIFF'))


def test_a_folder_lists_its_pictures_by_name(tmp_path):
    for name in ('b.JPG', 'a.png', '.hidden.png', 'notes.txt'):
        (tmp_path / name).touch()
    (tmp_path / 'c.png').mkdir()
    assert [path.name for path in list_images(tmp_path)] == ['a.png', 'b.JPG']
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='no images in .*empty'):
        list_images(tmp_path / 'empty')


def kinds_of_files() -> dict[str, bytes]:
    """Files of every kind that decoders treat in their own ways."""
    image = Image.fromarray(RGB)
    opacity = Image.fromarray(np.linspace(0, 255, RGB.shape[1], dtype=np.uint8)[None].repeat(RGB.shape[0], 0))
    partial = image.copy()
    partial.putalpha(opacity)
    grey = image.convert('L')
    grey_partial = grey.copy()
    grey_partial.putalpha(opacity)
    palette = image.quantize(16)
    exif = Image.Exif()
    exif[274] = 6  # A camera held on its side.
    # Pillow writes CMYK as Photoshop does: inverted, with a mark that says so. Some files lack that mark.
    adobe = encoded(image.convert('CMYK'), 'JPEG', quality=95)
    place = adobe.index(b'Adobe') - 4
    plain_cmyk = adobe[:place] + adobe[place + 2 + int.from_bytes(adobe[place + 2 : place + 4], 'big') :]
    return dict(
        jpeg=encoded(image, 'JPEG'),
        grey_jpeg=encoded(grey, 'JPEG'),
        progressive=encoded(image, 'JPEG', progressive=True, icc_profile=b'x' * 70000),
        turned=encoded(image, 'JPEG', exif=exif),
        cmyk=adobe,
        plain_cmyk=plain_cmyk,
        png=encoded(image, 'PNG'),
        grey_png=encoded(grey, 'PNG'),
        bits=encoded(grey.convert('1'), 'PNG'),
        palette=encoded(palette, 'PNG'),
        turned_png=encoded(image, 'PNG', exif=exif),
        partial=encoded(partial, 'PNG'),
        grey_partial=encoded(grey_partial, 'PNG'),
        clear_palette=encoded(palette, 'PNG', transparency=3),
        partial_palette=encoded(palette, 'PNG', transparency=bytes(range(0, 256, 16))),
        clear_colour=encoded(image, 'PNG', transparency=tuple(int(value) for value in RGB[0, 0])),
        deep=encoded(Image.fromarray(grey_16_bit()), 'PNG'),
        deep_colour=png_of(2, 1, 16, b'\0' + bytes(range(12))),
        webp=encoded(partial, 'WEBP', lossless=True),
        lossy_webp=encoded(image, 'WEBP'),
        gif=encoded(palette, 'GIF', transparency=3),
        bmp=encoded(image, 'BMP'),
        tiff=encoded(image.convert('CMYK'), 'TIFF'),
    )


def grey_16_bit() -> np.ndarray:
    return np.linspace(0, 65535, RGB[..., 0].size).reshape(RGB.shape[:2]).astype(np.uint16)


@pytest.mark.parametrize('kind', list(kinds_of_files()))
def test_data_sets_and_inference_see_the_same_pixels(tmp_path, kind):
    content = kinds_of_files()[kind]
    (tmp_path / 'a').write_bytes(content)
    expected = read_image(tmp_path / 'a')
    assert np.array_equal(decode_image(content), expected)
    loaded = LoadImageFromFile()(dict(img_path=str(tmp_path / 'a')))
    assert np.array_equal(loaded['img'], expected)
    assert loaded['img_shape'] == loaded['ori_shape'] == expected.shape[:2]
    as_float = LoadImageFromFile(to_float32=True)(dict(img_path=str(tmp_path / 'a')))['img']
    assert as_float.dtype == np.float32 and np.array_equal(as_float, expected)


def test_ordinary_files_go_straight_to_mmcvs_decoder(monkeypatch):
    files = kinds_of_files()
    monkeypatch.setattr(image_io, '_from_bytes', lambda *args: None)
    ordinary = {kind for kind, content in files.items() if decode_image(content) is not None}
    assert ordinary == {'jpeg', 'grey_jpeg', 'progressive', 'turned', 'png', 'grey_png', 'bits', 'palette'}


def test_what_is_transparent_is_white_and_what_shines_through_is_mixed_with_it():
    pixels = Image.new('RGBA', (3, 1))
    for place, opacity in enumerate((0, 51, 255)):
        pixels.putpixel((place, 0), (200, 0, 100, opacity))
    # A fifth of (200, 0, 100), four fifths of white; BGR.
    expected = [[[255, 255, 255], [224, 204, 244], [100, 0, 200]]]
    assert decode_image(encoded(pixels, 'PNG')).tolist() == expected


def test_cmyk_as_photoshop_writes_it_is_not_turned_into_its_negative():
    """Its values are stored inverted, which a mark in the file says."""
    pixels = decode_image(kinds_of_files()['cmyk']).astype(int)
    assert abs(pixels - BGR).mean() < 15 < 60 < abs(255 - pixels - BGR).mean()
