"""Random inputs for every reader, with answers compared: crashes, errors that are not declared, wrong masks.

    python tools/dev/fuzz.py /tmp/fuzz --inputs 1000000          # goes on where it was stopped
    python tools/dev/fuzz.py --only rle 1234                     # one input again, in this process, with its traceback

Every input follows from (seed, kind, number). The inputs of a kind are taken in rows of some hundreds by a process of
their own, so that a crash (a signal, a process out of memory: it may take 2 GB more than at its start) ends that row
alone and is counted. An error of the declared kind (``ValueError``, for data) with a message is right, anything else is
counted as an error; an answer that differs from the plain computation as wrong. Each row adds a line of JSON to
``fuzz.jsonl``.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import multiprocessing
import pickle
import random
import resource
import string
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open_clip
import torch
from click.testing import CliRunner
from PIL import Image
from pycocotools import mask as coco_mask
from safetensors.torch import save as save_tensors

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mmetris.cli import mmetris_command  # noqa: E402
from mmetris.datasets.refer import load_instances, load_json, load_refs, parse_json_lines  # noqa: E402
from mmetris.datasets.segmentation import segmentation_to_rle  # noqa: E402
from mmetris.evaluation.functional import intersection_and_union, mean_iou, overall_iou, precision_at  # noqa: E402
from mmetris.utils.checkpoint_io import read_checkpoint  # noqa: E402
from mmetris.utils.file_names import FreeNames, legal_stem  # noqa: E402
from mmetris.utils.image_io import decode_image, read_image  # noqa: E402
from mmetris.utils.letterbox import letterbox_geometry, letterbox_image, undo_letterbox  # noqa: E402
from mmetris.utils.text_files import decode_text, writable  # noqa: E402
from mmetris.utils.tokenizer import tokenize  # noqa: E402

ROW = 500
MEMORY = 2 << 30


class Wrong(Exception):  # noqa: N818  It is a finding, not an error of a program.
    """An answer that differs from the plain computation."""


def same(answer: Any, expected: Any, what: str) -> None:
    """Raise unless two values are equal."""
    if not np.array_equal(np.asarray(answer), np.asarray(expected)):
        raise Wrong(f'{what}: {answer!r} instead of {expected!r}'[:500])


def some_mask(chance: random.Random) -> np.ndarray:
    """(H, W) uint8: noise, rectangles, everything or nothing."""
    height, width = chance.randint(1, 40), chance.randint(1, 40)
    generator = np.random.default_rng(chance.getrandbits(32))
    mask = (generator.random((height, width)) < chance.choice([0, 0.02, 0.5, 0.98, 1])).astype(np.uint8)
    if chance.random() < 0.5:
        top, left = chance.randrange(height), chance.randrange(width)
        mask[top : top + chance.randint(1, 20), left : left + chance.randint(1, 20)] ^= 1
    return mask


def changed(content: bytes, chance: random.Random) -> bytes:
    """Bytes with some of them changed, left out, doubled or cut off."""
    data = bytearray(content)
    for _ in range(chance.choice([0, 1, 1, 1, 2, 5])):
        if not data:
            break
        place = chance.randrange(len(data))
        what = chance.randrange(5)
        if what == 0:
            data[place] = chance.getrandbits(8)
        elif what == 1:
            data[place] ^= 1 << chance.randrange(8)
        elif what == 2:
            del data[place : place + chance.randint(1, 9)]
        elif what == 3:
            data[place:place] = data[place : place + chance.randint(1, 9)]
        else:
            del data[place:]
    return bytes(data)


def any_value(chance: random.Random, depth: int = 0) -> Any:
    """A value of the kinds that JSON and pickles have."""
    plain = [
        None,
        True,
        chance.randint(-3, 3),
        chance.getrandbits(70),
        -1,
        0.5,
        1.0,
        float('nan'),
        float('inf'),
        1e300,
        '',
        ' ',
        'a',
        '\ud800',
        '1',
        b'x',
    ]
    if depth > 2 or chance.random() < 0.7:
        return chance.choice(plain)
    if chance.random() < 0.5:
        return [any_value(chance, depth + 1) for _ in range(chance.randint(0, 4))]
    keys = ['id', 'size', 'counts', 'image_id', 'sent', 'raw', 'x']
    return {chance.choice(keys): any_value(chance, depth + 1) for _ in range(chance.randint(0, 4))}


def fuzz_rle(chance: random.Random) -> None:
    """RLE in both forms, whole and changed."""
    mask = some_mask(chance)
    height, width = mask.shape
    coded = coco_mask.encode(np.asfortranarray(mask))
    flat = mask.ravel(order='F')
    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist() + [flat.size]
    runs = np.diff([0, *edges]).tolist()
    form = chance.randrange(4)
    if form == 0:
        rle: Any = dict(size=[height, width], counts=coded['counts'])
    elif form == 1:
        rle = dict(size=[height, width], counts=coded['counts'].decode())
    elif form == 2:
        rle = dict(size=[height, width], counts=runs)
    else:
        rle = [dict(size=[height, width], counts=runs), dict(size=[height, width], counts=coded['counts'])]
    if chance.random() < 0.4:
        same(coco_mask.decode(segmentation_to_rle(rle, height, width)), mask, 'mask')
        return
    one = rle[0] if isinstance(rle, list) else rle
    if isinstance(one['counts'], list):
        for _ in range(chance.randint(1, 2)):
            place = chance.randrange(len(one['counts']) + 1)
            one['counts'][place:place] = [any_value(chance)]
    else:
        raw = one['counts'] if isinstance(one['counts'], bytes) else one['counts'].encode()
        raw = changed(raw, chance)
        one['counts'] = raw if isinstance(one['counts'], bytes) else raw.decode('latin-1')
    if chance.random() < 0.1:
        one['size'] = any_value(chance)
    read = segmentation_to_rle(rle, height, width)
    # What was taken means one mask: its runs fill the image, whoever decodes it, however often.
    again = coco_mask.decode(segmentation_to_rle(rle, height, width))
    same(coco_mask.decode(read), again, 'second reading')
    same(again.shape, (height, width), 'shape')
    if isinstance(rle, dict):
        same(again, decoded_plainly(rle, height, width), 'plain decoding')


def decoded_plainly(rle: dict, height: int, width: int) -> np.ndarray:
    """COCO's run lengths, by its definition alone."""
    counts = rle['counts']
    if not isinstance(counts, list):
        text = counts.encode('latin-1') if isinstance(counts, str) else counts
        runs, place = [], 0
        while place < len(text):
            value, shift, more = 0, 0, True
            while more:
                code = text[place] - 48
                value |= (code & 0x1F) << shift
                more = bool(code & 0x20)
                place, shift = place + 1, shift + 5
                if not more and code & 0x10:
                    value |= -1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        counts = runs
    flat = np.repeat(np.arange(len(counts)) % 2, [int(count) for count in counts])
    return flat.astype(np.uint8).reshape((height, width), order='F')


def fuzz_polygon(chance: random.Random) -> None:
    """Polygons, of numbers and of anything."""
    height, width = chance.randint(1, 60), chance.randint(1, 60)

    def number() -> Any:
        kind = chance.random()
        if kind < 0.9:
            return chance.choice([chance.uniform(-5, 65), float(chance.randint(0, 60)), chance.randint(0, 60)])
        return any_value(chance) if kind < 0.95 else chance.choice([5e9, -1e18, 1e6, 2**31, 1e-300])

    polygons = [[number() for _ in range(chance.choice([0, 2, 4, 6, 7, 8, 12]))] for _ in range(chance.randint(0, 3))]
    if chance.random() < 0.05:
        polygons.append(any_value(chance))
    union = coco_mask.decode(segmentation_to_rle(polygons, height, width))
    same(union.shape, (height, width), 'shape')
    parts = [coco_mask.decode(segmentation_to_rle([one], height, width)) for one in polygons]
    same(union, np.max([np.zeros_like(union), *parts], axis=0), 'union of the parts')


FILES = tempfile.TemporaryDirectory(prefix='mmetris_fuzz_')


def written(content: bytes, name: str) -> str:
    """A file with that content."""
    path = Path(FILES.name) / name
    path.write_bytes(content)
    return str(path)


def fuzz_annotations(chance: random.Random) -> None:
    """Files of annotations and of sentences, some of whose values are others."""

    def maybe(value: Any, often: float = 0.03) -> Any:
        return any_value(chance) if chance.random() < often else value

    def record(**values: Any) -> dict:
        return {key: maybe(value) for key, value in values.items() if chance.random() > 0.01}

    images = [record(id=1, file_name='a.jpg', height=4, width=5), record(id=2, file_name='b.jpg', height=4, width=5)]
    annotations = [record(id=number, image_id=1, category_id=1, segmentation=[[0, 0, 3, 0, 3, 3]]) for number in (1, 2)]
    instances = maybe(dict(images=maybe(images), annotations=maybe(annotations)), 0.01)
    sentence = record(sent_id=1, sent='the dog', raw='The dog', tokens=['the', 'dog'])
    several = chance.random() < 0.5
    ref = record(ref_id=1, ann_id=[1, 2] if several else 1, image_id=1, split='val', sentences=maybe([maybe(sentence)]))
    refs = maybe([maybe(ref)], 0.01)
    kind = chance.randrange(4)
    if kind == 0:
        text = json.dumps(instances, default=str).encode('utf-8', 'surrogatepass')
        load_instances(written(changed(text, chance) if chance.random() < 0.3 else text, 'instances.json'))
    elif kind == 1:
        raw = pickle.dumps(refs, protocol=2)
        load_refs(written(changed(raw, chance) if chance.random() < 0.3 else raw, 'refs(unc).p'), several=several)
    elif kind == 2:
        text = json.dumps(refs, default=str).encode('utf-8', 'surrogatepass')
        load_refs(written(changed(text, chance) if chance.random() < 0.3 else text, 'refs(unc).json'), several=several)
    else:
        content = changed(json.dumps(any_value(chance), default=str).encode('utf-8', 'surrogatepass'), chance)
        path = written(content, 'any.json')
        load_json(path)
        list(parse_json_lines(decode_text(content, path), path))


CONTENT = dict(
    state_dict=dict(a=torch.arange(6.0).reshape(2, 3), b=torch.ones(2, dtype=torch.float16)),
    meta=dict(epoch=3, cfg='a = 1', seed=np.int64(5), best=np.float64(0.5), array=np.arange(3)),
)


def fuzz_checkpoint(chance: random.Random) -> None:
    """Checkpoints of both formats and safetensors, changed."""
    kind = chance.randrange(3)
    buffer = io.BytesIO()
    if kind < 2:
        torch.save(CONTENT, buffer, _use_new_zipfile_serialization=kind == 0)
        raw = buffer.getvalue()
    else:
        raw = save_tensors(CONTENT['state_dict'])
    content = changed(raw, chance)
    read = read_checkpoint(written(content, 'a.safetensors' if kind == 2 else 'a.pth'))
    if kind == 0 or content == raw:  # Archives have checksums: what is read is what was written.
        for name, value in CONTENT['state_dict'].items():
            if kind != 0 or name in read.get('state_dict', {}):
                same(read['state_dict'][name], value, name)


def fuzz_letterbox(chance: random.Random) -> None:
    """Sizes: what is put into the box comes out at its own size, whole."""
    ori = (chance.randint(1, 300), chance.randint(1, 300))
    box = (chance.randint(8, 200), chance.randint(8, 200))
    geometry = letterbox_geometry(ori, box)
    matrix = geometry.matrix()
    corners = matrix @ np.array([[0, ori[1], 0], [0, 0, ori[0]], [1, 1, 1]])
    if corners.min() < -1.01 or corners[0].max() > box[1] + 1.01 or corners[1].max() > box[0] + 1.01:
        raise Wrong(f'{ori} in {box}: corners at {corners.tolist()}')
    image = letterbox_image(np.full((*ori, 3), 200, np.uint8), box)
    same(image.shape, (*box, 3), 'shape')
    inside = undo_letterbox(torch.ones(1, 1, *box), geometry, box, ori)[0, 0]
    same(inside.shape, ori, 'shape of the inverse')
    # Values are sampled with zeros outside: they fall within two pixels of the box's edge, as in the released code.
    rows = geometry.scale * np.arange(ori[0]) + geometry.top
    columns = geometry.scale * np.arange(ori[1]) + geometry.left
    whole = inside[(rows >= 2) & (rows <= box[0] - 3)][:, (columns >= 2) & (columns <= box[1] - 3)]
    if whole.numel() and not np.allclose(whole, 1, atol=1e-4):
        raise Wrong(f'{ori} in {box}: ones come back as {whole.min()} to {whole.max()}')


ALPHABETS = [
    string.ascii_lowercase + ' ',
    string.printable,
    'äöüßéñçş',
    '中文日本語',
    '🙂\U0001f469\u200d\U0001f467',
    '\u200b\u00a0\t\n',
    "'s t're &amp; <b>",
]


def fuzz_tokenizer(chance: random.Random) -> None:
    """Texts of all scripts: the tokens of open_clip's tokenizer."""
    text = ''.join(chance.choice(chance.choice(ALPHABETS)) for _ in range(chance.randint(0, 60)))
    length = chance.choice([5, 17, 22, 77])
    same(tokenize(text, length), open_clip.tokenize(text, length), f'tokens of {text!r}')


def fuzz_metrics(chance: random.Random) -> None:
    """Scores of masks against loops over pixels."""
    generator = np.random.default_rng(chance.getrandbits(32))
    pairs = []
    for _ in range(chance.randint(1, 4)):
        shape = (chance.randint(1, 8), chance.randint(1, 8))
        truth = generator.choice([0, 1, 255], shape, p=[0.6, 0.3, 0.1]) * (chance.random() < 0.9)
        pairs.append(((generator.random(shape) < 0.4) * (chance.random() < 0.9), truth))
    counts = [intersection_and_union(torch.tensor(one), torch.tensor(truth)) for one, truth in pairs]
    expected = []
    for one, truth in pairs:
        both = either = 0
        for found, meant in zip(one.ravel().tolist(), truth.ravel().tolist()):
            if meant != 255:
                both += bool(found) and meant == 1
                either += bool(found) or meant == 1
        expected.append((both, either))
    same(counts, expected, 'pixels')
    intersections, unions = torch.tensor(counts).T
    ious = [both / either if either else 0.0 for both, either in expected]
    total = sum(either for _, either in expected)
    for name, value, plain in (
        ('mIoU', mean_iou(intersections, unions), sum(ious) / len(ious)),
        ('oIoU', overall_iou(intersections, unions), sum(both for both, _ in expected) / total if total else 0.0),
        ('Pr@0.5', precision_at(intersections, unions, 0.5), sum(iou > 0.5 for iou in ious) / len(ious)),
    ):
        if not math.isclose(value, plain, abs_tol=1e-9):
            raise Wrong(f'{name}: {value} instead of {plain} for {expected}')


PICTURES: list[bytes] = []


def fuzz_images(chance: random.Random) -> None:
    """Picture files of several kinds, changed: pixels, the same in data sets and inference, or a ValueError."""
    if not PICTURES:
        colour = np.random.default_rng(0).integers(0, 255, (23, 31, 3), np.uint8)
        PICTURES.extend(
            cv2.imencode(ending, colour)[1].tobytes() for ending in ('.jpg', '.png', '.bmp', '.webp', '.ppm')
        )
        for mode, kind in (('RGBA', 'PNG'), ('P', 'PNG'), ('P', 'GIF'), ('CMYK', 'JPEG'), ('L', 'TIFF'), ('1', 'PNG')):
            buffer = io.BytesIO()
            Image.fromarray(colour).convert(mode).save(buffer, kind)
            PICTURES.append(buffer.getvalue())
    content = changed(chance.choice(PICTURES), chance)
    pixels = read_image(content, max_pixels=1 << 22)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise Wrong(f'pixels {pixels.dtype} {pixels.shape}')
    same(decode_image(content).shape, pixels.shape, 'shape in data sets')


def fuzz_names(chance: random.Random) -> None:
    """File names of anything: legal, and no two the same."""
    alphabet = string.printable + 'äöü中🙂\ud800\0'
    names = FreeNames()
    texts = [''.join(chance.choice(alphabet) for _ in range(chance.choice([0, 1, 3, 300]))) for _ in range(4)]
    found = [names.of(legal_stem(text)) for text in [*texts, *texts]]
    if len({name.lower() for name in found}) != len(found):
        raise Wrong(f'one name twice: {found}')
    for name in found:
        if not name or '/' in name or '\0' in name or len(writable(name).encode()) > 250:
            raise Wrong(f'no legal name: {name!r}')


COMMANDS = ['segment', 'video', 'models', 'data', 'check', 'import', 'download']
COMMANDS += ['--help', '--model', '--classes', '--out-dir']


def fuzz_cli(chance: random.Random) -> None:
    """Words of the shell in any order, without a model: help or an error of one line, no traceback."""
    words = [chance.choice([*COMMANDS, 'no such picture.jpg', '', '-1', '中', 'a=b', '--no-such-flag', '/'])]
    words += [chance.choice([*COMMANDS, 'x', '0.5']) for _ in range(chance.randint(0, 4))]
    if 'models' in words or 'download' in words:
        words.append('--help')
    result = CliRunner().invoke(mmetris_command, words, standalone_mode=True)
    # Those the command turns into a line.
    if result.exception is not None and not isinstance(result.exception, (SystemExit, ValueError, FileNotFoundError)):
        raise Wrong(f'{words}: {result.exception!r}')
    if 'Traceback' in result.output:
        raise Wrong(f'{words}: a traceback')


# Kind: what takes one input, and its share of all.
KINDS: dict[str, tuple[Callable[[random.Random], None], float]] = dict(
    rle=(fuzz_rle, 0.3),
    polygon=(fuzz_polygon, 0.2),
    annotations=(fuzz_annotations, 0.1),
    checkpoint=(fuzz_checkpoint, 0.06),
    letterbox=(fuzz_letterbox, 0.06),
    tokenizer=(fuzz_tokenizer, 0.08),
    metrics=(fuzz_metrics, 0.08),
    images=(fuzz_images, 0.06),
    names=(fuzz_names, 0.05),
    cli=(fuzz_cli, 0.01),
)


def take(kind: str, number: int, seed: int) -> str:
    """Take one input; 'right', 'refused', or what is wrong."""
    chance = random.Random(f'{seed} {kind} {number}')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            KINDS[kind][0](chance)
    except ValueError as error:
        return 'refused' if str(error).strip() and not isinstance(error, UnicodeError) else f'error: {error!r}'
    except pickle.UnpicklingError as error:  # As docs/data.md declares for files of sentences.
        return 'refused' if kind == 'annotations' else f'error: {error!r}'
    except Wrong as error:
        return f'wrong: {error}'
    except Exception as error:  # noqa: BLE001  That is what is looked for.
        return f'error: {error!r}'
    return 'right'


def row(kind: str, first: int, seed: int, report: Any) -> None:
    """Take a row of inputs in a process of its own."""
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    torch.set_num_threads(1)
    counts: Counter = Counter()
    findings = []
    for number in range(first, first + ROW):
        report.send(number)
        result = take(kind, number, seed)
        counts[result.split(':')[0]] += 1
        if result not in ('right', 'refused'):
            findings.append((number, result[:400]))
    report.send(dict(counts=counts, findings=findings))


def main() -> int:
    """Read the command line, take inputs, count.

    Returns:
        How many crashes, errors and wrong answers there were.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, nargs='?', help='for fuzz.jsonl; a campaign in it goes on')
    parser.add_argument('--inputs', type=int, default=1_000_000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=list(KINDS))
    parser.add_argument('--minutes', type=float, default=1e9, help='stop after this time')
    parser.add_argument('--only', nargs=2, metavar=('KIND', 'NUMBER'), help='take one input in this process')
    args = parser.parse_args()
    if args.only:
        KINDS[args.only[0]][0](random.Random(f'{args.seed} {args.only[0]} {args.only[1]}'))
        return 0
    if args.folder is None:
        parser.error('name a folder, or an input by --only')
    args.folder.mkdir(parents=True, exist_ok=True)
    record = args.folder / 'fuzz.jsonl'
    done = [json.loads(line) for line in record.read_text().splitlines()] if record.is_file() else []
    done = [one for one in done if one['seed'] == args.seed]
    had = {(one['kind'], one['first']) for one in done}
    context = multiprocessing.get_context('fork')
    end = time.monotonic() + 60 * args.minutes
    rows = [
        (first / KINDS[kind][1], kind, first)
        for kind in args.kinds
        for first in range(0, int(args.inputs * KINDS[kind][1]), ROW)
        if (kind, first) not in had
    ]
    for _, kind, first in sorted(rows):
        if time.monotonic() > end:
            break
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=row, args=(kind, first, args.seed, writer))
        process.start()
        writer.close()
        result: Any = first
        try:
            while not isinstance(result, dict):
                result = reader.recv()
        except EOFError:
            process.join()
            finding = (result, f'crash: exit status {process.exitcode}')
            result = dict(counts=Counter(crash=1, right=result - first), findings=[finding])
        process.join()
        one = dict(seed=args.seed, kind=kind, first=first, **result)
        done.append(one)
        with record.open('a') as file:
            file.write(json.dumps(one) + '\n')
        for number, what in one['findings']:
            print(f'{kind} {number}: {what}', flush=True)
    total: Counter = sum((Counter(one['counts']) for one in done), Counter())
    by_kind = Counter()
    for one in done:
        by_kind[one['kind']] += sum(one['counts'].values())
    print(f'{sum(total.values()):,} inputs, seed {args.seed}: {dict(total)}; {dict(by_kind)}')
    return sum(count for what, count in total.items() if what not in ('right', 'refused'))


if __name__ == '__main__':
    sys.exit(1 if main() else 0)
