"""Pictures from anywhere to one form: (H, W, 3) uint8, BGR as MMCV has them, turned upright.

Pillow reads the header first, so that a picture is refused for its size before it is decoded. Ordinary JPEG files are
then decoded by MMCV. Data pipelines call :func:`decode_image`, which knows ordinary files by their first bytes and
decodes the others in the same way: a mask is the same whether a picture came this way or through a data set.
"""

from __future__ import annotations

import io
import os
import re
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
from PIL import Image, ImageOps

from .files import check_ordinary, scheme_of

ImageSource = str | os.PathLike | bytes | np.ndarray | Image.Image

# 8192 x 8192. A mask of that size takes some seconds and 2 GB on the way to the original's pixels.
MAX_PIXELS = 2**26
MAX_DOWNLOAD_BYTES = 256 * 2**20
DOWNLOAD_TIMEOUT = 30  # seconds without an answer
WHITE = (255, 255, 255)
ORIENTATION = 0x0112  # A number of EXIF; from 5 on the picture is turned by a quarter.
TURNED_BY_A_QUARTER = 5
# What Pillow may take a picture for. Of the others some start programs (EPS) or read what the file names.
_WANTED = ('AVIF', 'BMP', 'DIB', 'GIF', 'JPEG', 'JPEG2000', 'MPO', 'PNG', 'PPM', 'TGA', 'TIFF', 'WEBP')
Image.init()
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)  # Not every Pillow has all of them.
# Of addresses: the others of MMEngine's backends would read what no address means, such as a local file.
_SCHEMES = ('http', 'https', 's3', 'petrel')
IMAGE_SUFFIXES = ('.bmp', '.gif', '.jfif', '.jpeg', '.jpg', '.png', '.ppm', '.pgm', '.tif', '.tiff', '.webp')


def read_image(
    source: ImageSource, max_pixels: int = MAX_PIXELS, background: Sequence[int] = WHITE, name: str | None = None
) -> np.ndarray:
    """Read one picture.

    - A camera's EXIF orientation is applied: the result is upright, and masks belong to the upright picture.
    - Transparent parts show ``background``.
    - 16 bits for each channel are reduced to 8 (65535 becomes 255; nothing is stretched).
    - Of an animation the first frame is read, with a warning.
    - Grey, palette and CMYK pictures become colour pictures.

    Args:
        source: File name, address (``http://``, ``https://``), content of a file, PIL image, or array: (H, W, 3) BGR,
            (H, W, 4) BGR and opacity, (H, W) grey; uint8, uint16 or bool.
        max_pixels: Largest height times width; a larger picture is refused before it is decoded. The
            default is 8192 x 8192.
        background: RGB colour behind transparent parts, 0..255. Defaults to white, as on a page.
        name: What error messages call the picture. Defaults to None: see :func:`image_name`.

    Returns:
        (H, W, 3) uint8, BGR, 0..255, contiguous.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read as a picture, has no pixels or too many, or the address does not answer.
        TypeError: If ``source`` is none of the above.
    """
    name = image_name(source) if name is None else name
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels, background, name)
    if isinstance(source, Image.Image):
        _check_size(source.size, max_pixels, name)
        return _from_pil(source, background, name)
    if isinstance(source, (bytes, bytearray)):
        content = bytes(source)
    elif isinstance(source, (str, os.PathLike)):
        content = _read_bytes(os.fspath(source))
    else:
        raise TypeError(
            f'an image is a file name, an address, bytes, a NumPy array (BGR) or a PIL image, '
            f'not {type(source).__name__}'
        )
    return _from_bytes(content, max_pixels, background, name)


def decode_image(
    content: bytes, name: str = 'the image', background: Sequence[int] = WHITE, backend: str | None = None
) -> np.ndarray:
    """The pixels that :func:`read_image` makes of a file's content, in the time of MMCV's decoder where that is enough.

    MMCV alone decodes JPEG in grey or three colours, and PNG of 8 bits without transparency; what it would decode in
    another way (opacity, CMYK, 16 bits, other formats) goes through Pillow. No size is refused.

    Args:
        content: Content of the file.
        name: What error messages call the picture. Defaults to 'the image'.
        background: RGB colour behind transparent parts, 0..255. Defaults to white.
        backend: MMCV's decoder for ordinary files. Defaults to None: MMCV's own choice.

    Returns:
        (H, W, 3) uint8, BGR, 0..255.

    Raises:
        ValueError: If it cannot be read as a picture.
    """
    # A file that was cut off MMCV's decoder fills up with grey or the last row; Pillow tells.
    if _is_ordinary(content) and _has_end(content):
        try:
            pixels = mmcv.imfrombytes(content, backend=backend)
        except (AssertionError, cv2.error, AttributeError) as error:  # AttributeError: the decoder gave None.
            raise ValueError(f'{name} cannot be read as an image; is it complete?') from error
        if pixels is None:
            raise ValueError(f'{name} cannot be read as an image; is it complete?')
        return pixels
    return _from_bytes(content, sys.maxsize, background, name)


def upright_hw(source: str | os.PathLike | bytes, name: str = 'the image') -> tuple[int, int]:
    """Height and width that a picture will have once it is read, turned by what its camera noted; no pixel is decoded.

    Args:
        source: A local file, of which the header alone is read, or the content of a file.
        name: What error messages call the picture. Defaults to 'the image'.

    Raises:
        ValueError: If its header cannot be read as that of a picture.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION, 1) >= TURNED_BY_A_QUARTER
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'{name} cannot be read as an image: {error}') from error
    return (width, height) if turned else (height, width)


def image_name(source: ImageSource, default: str = 'the image') -> str:
    """What a picture is called: the last part of its path or address, else ``default``.

    Args:
        source: See :func:`read_image`.
        default: Name of a picture without one. Defaults to 'the image'.
    """
    if isinstance(source, Image.Image):
        source = getattr(source, 'filename', '') or ''
    if isinstance(source, (str, os.PathLike)):
        text = re.split(r'[?#]', str(source))[0] if is_address(source) else str(source)
        return os.path.basename(text.rstrip('/\\')) or default
    return default


def is_address(source: object) -> bool:
    """Whether something is an address such as ``https://...``, and no file name."""
    return isinstance(source, str) and scheme_of(source) is not None


def list_images(folder: str | os.PathLike) -> list[Path]:
    """Pictures in a folder (not in those below it), by their file endings, sorted by name.

    Raises:
        FileNotFoundError: If there is none.
    """
    found = sorted(
        path
        for path in Path(folder).iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.') and path.is_file()
    )
    if not found:
        raise FileNotFoundError(f'no images in {folder}: looked for {", ".join(IMAGE_SUFFIXES)}')
    return found


def expand_folders(inputs: ImageSource | Sequence[ImageSource]) -> list[ImageSource]:
    """Pictures one by one; a folder stands for those in it.

    Args:
        inputs: A picture or several.

    Raises:
        FileNotFoundError: If a folder has no pictures.
        ValueError: If there is none at all.
    """
    sources: list = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    if not sources:
        raise ValueError('no image given')
    pictures: list[ImageSource] = []
    for source in sources:
        is_path = isinstance(source, (str, os.PathLike)) and not is_address(source)
        if is_path and Path(source).expanduser().is_dir():
            pictures.extend(list_images(Path(source).expanduser()))
        else:
            pictures.append(source)
    return pictures


def read_images(
    sources: Sequence[ImageSource], max_pixels: int = MAX_PIXELS, skip_unreadable: bool = False
) -> Iterator[tuple[int, np.ndarray, str]]:
    """Read pictures one after the other.

    Args:
        sources: See :func:`read_image`.
        max_pixels: See there.
        skip_unreadable: Whether those that cannot be read are left out, with a warning. Defaults to False.

    Yields:
        Index, (H, W, 3) BGR picture, and name.

    Raises:
        FileNotFoundError: If there is no such file, unless it is left out.
        ValueError: If one cannot be read, likewise.
    """
    for index, source in enumerate(sources):
        name = image_name(source, f'image_{index}')
        try:
            image = read_image(source, max_pixels, name=name)
        except (ValueError, FileNotFoundError) as error:
            if not skip_unreadable:
                raise
            warnings.warn(f'left out: {error}', stacklevel=2)
            continue
        yield index, image, name


def _read_bytes(source: str) -> bytes:
    if is_address(source):
        return _download(source)
    path = Path(source).expanduser()
    check_ordinary(path)
    if path.is_dir():
        raise ValueError(f'{source} is a folder; one image is needed here')
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f'image not found: {source}') from None
    except OSError as error:
        raise ValueError(f'{source} cannot be read: {error.strerror or error}') from error


def _download(address: str) -> bytes:
    """Content at an address; other kinds than HTTP (say ``s3://``) go to MMEngine's file backends."""
    scheme = scheme_of(address)
    if scheme not in _SCHEMES:
        raise ValueError(f'{address} is not fetched: addresses of {", ".join(_SCHEMES)} are, and files by their path')
    if scheme not in ('http', 'https'):
        from mmengine.fileio import get

        try:
            return get(address)
        except Exception as error:  # Whatever the backend of that kind raises.
            raise ValueError(f'{address} cannot be read: {error}') from error
    try:
        # Some servers refuse Python's own name.
        request = urllib.request.Request(address, headers={'User-Agent': 'mmetris'})
        with urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT) as answer:
            content = answer.read(MAX_DOWNLOAD_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise ValueError(f'{address} cannot be read: the server answered {error.code} {error.reason}') from error
    except (OSError, ValueError) as error:  # URLError is an OSError; a malformed address is a ValueError.
        raise ValueError(f'{address} cannot be read: {getattr(error, "reason", error)}') from error
    if len(content) > MAX_DOWNLOAD_BYTES:
        raise ValueError(f'{address} is larger than {MAX_DOWNLOAD_BYTES >> 20} MB')
    return content


def _is_ordinary(content: bytes) -> bool:
    """Whether MMCV's decoder and ours give the same pixels, as far as a file's first bytes tell; if in doubt, no."""
    if content.startswith(b'\xff\xd8'):
        return _jpeg_components(content) in (1, 3)
    if content.startswith(b'\x89PNG\r\n\x1a\n'):
        depth, color_type = content[24:25], content[25:26]
        # Grey, RGB or palette; no transparency, no orientation, no animation.
        plain = depth <= b'\x08' and color_type in (b'\0', b'\2', b'\3')
        return plain and _png_chunks(content).isdisjoint((b'tRNS', b'eXIf', b'acTL'))
    return False


def _has_end(content: bytes) -> bool:
    """Whether a JPEG or PNG file ends as it should; cameras may fill up with zeros behind it."""
    end = content[-4096:].rstrip(b'\0')
    return end.endswith((b'\xff\xd9', b'IEND\xaeB`\x82'))


def _png_chunks(content: bytes) -> set[bytes]:
    """Kinds of a PNG file's chunks, by their headers."""
    kinds, place = set(), 8
    while place + 8 <= len(content):
        kinds.add(content[place + 4 : place + 8])
        place += 12 + int.from_bytes(content[place : place + 4], 'big')  # length, kind and check sum are 12 bytes
    return kinds


def _jpeg_components(content: bytes) -> int | None:
    """Colours of a JPEG file by the header of its frame; None if it is not found."""
    place = 2
    while place + 10 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # fills up
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame, not tables
            return content[place + 9]
        else:
            place += 2 + int.from_bytes(content[place + 2 : place + 4], 'big')
    return None


def _check_size(size_wh: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size_wh
    if width < 1 or height < 1:
        raise ValueError(f'{name} has no pixels: {width} x {height}')
    if width * height > max_pixels:
        raise ValueError(
            f'{name} is too large: {width} x {height} pixels; at most {max_pixels} are read. Reduce it '
            'or raise max_pixels'
        )


def _from_bytes(content: bytes, max_pixels: int, background: Sequence[int], name: str) -> np.ndarray:
    if not content:
        raise ValueError(f'{name} cannot be read as an image: it is empty')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # Our own limit follows.
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f'{name} is too large: {error}') from error
    except Exception as error:  # A broken file raises whatever its bytes lead to.
        raise ValueError(f'{name} cannot be read as an image: no known format, or its start is damaged') from error
    with image:
        _check_size(image.size, max_pixels, name)
        pixels = _from_pil(image, background, name)
        if image.format in ('JPEG', 'MPO') and _is_ordinary(content):
            decoded = mmcv.imfrombytes(content)
            # Another version of libjpeg may round otherwise than Pillow's; what a data pipeline would see counts.
            if decoded is not None and decoded.shape == pixels.shape:
                pixels = decoded
    return np.ascontiguousarray(pixels)


def _from_pil(image: Image.Image, background: Sequence[int], name: str) -> np.ndarray:
    try:
        frames = getattr(image, 'n_frames', 1)
        if frames > 1:
            if image.tell() != 0:
                image.seek(0)
            if image.format != 'MPO':  # A photo with its preview or its second eye is no animation.
                warnings.warn(f'{name} has {frames} frames; only the first is used', stacklevel=2)
        image.load()
        image = ImageOps.exif_transpose(image)
        rgb = _to_rgb(image, background, name)
    except ValueError:
        raise
    except Exception as error:  # As above.
        reason = (str(error).strip() or type(error).__name__).split('\n')[0]
        raise ValueError(f'{name} cannot be read as an image: {reason}') from error
    return np.ascontiguousarray(rgb[..., ::-1])


def _to_rgb(image: Image.Image, background: Sequence[int], name: str) -> np.ndarray:
    """Any of Pillow's modes -> (H, W, 3) uint8."""
    if image.mode.startswith('I') or image.mode == 'F':
        grey = _reduce_depth(np.asarray(image), name)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or 'transparency' in image.info:
        image = image.convert('RGBA')
        page = Image.new('RGBA', image.size, (*background, 255))
        image = Image.alpha_composite(page, image)
    return np.asarray(image.convert('RGB'))


def _reduce_depth(values: np.ndarray, name: str) -> np.ndarray:
    """Grey of more than 8 bits -> uint8: whole numbers on the scale 0..65535, fractions on 0..1."""
    if values.dtype == np.uint8:
        return values
    low, high = values.min(), values.max()
    full = 1 if values.dtype.kind == 'f' else 65535
    if not (low >= 0 and high <= full):  # So that NaN is refused, too.
        raise ValueError(f'{name} has values from {low} to {high}; a picture of type {values.dtype} has 0 to {full}')
    return (values.astype(np.float64) * (255 / full)).round().astype(np.uint8)


def _from_array(array: np.ndarray, max_pixels: int, background: Sequence[int], name: str) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ValueError(
            f'{name} is an array of shape {array.shape}; (H, W, 3) BGR, (H, W, 4) BGR and opacity or '
            '(H, W) grey is needed'
        )
    _check_size(array.shape[1::-1], max_pixels, name)
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = _reduce_depth(array, name)
    elif array.dtype != np.uint8:
        raise ValueError(
            f'{name} is an array of {array.dtype}; uint8 in 0..255 is needed (for values in 0..1: '
            '(255 * array).round().astype(numpy.uint8))'
        )
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    elif array.shape[2] == 4:
        opacity = array[..., 3:].astype(np.float32) / 255
        page = np.array(background[::-1], np.float32)
        array = (array[..., :3] * opacity + page * (1 - opacity)).round().astype(np.uint8)
    return np.ascontiguousarray(array)
