"""The serving example: requests and their mistakes, pictures that are kept, and the server under a small load."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import io
import json
import re
import shutil
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from open_clip.tokenizer import default_bpe
from PIL import Image

from tests.toy_inference import ROOT, picture

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

SERVING = ROOT / 'projects' / 'serving'
TEXTS = ['the left dog', 'a cat', 'one']


def load(name):
    """A module of the project, which is no package; its neighbours are imported by name."""
    for folder in (SERVING, ROOT / 'projects' / 'onnx_runtime'):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    spec = importlib.util.spec_from_file_location(name, SERVING / f'{name}.py')
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


answering = load('answering')
segment = sys.modules['segment']


def file_of(pixels: np.ndarray, kind: str = 'png') -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def mask_of(answer: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer['mask']))))


def save_graph(path, inputs: dict, outputs: dict, constants: dict, nodes: list) -> None:
    """An ONNX file; sides with a name are free. ``nodes`` are lines such as ``'b = Mul(a, c)'``."""
    kinds = dict.fromkeys(('tokens', 'image_index'), onnx.TensorProto.INT64)

    def ports(shapes):
        return [
            onnx.helper.make_tensor_value_info(name, kinds.get(name, onnx.TensorProto.FLOAT), shape)
            for name, shape in shapes.items()
        ]

    made = []
    for line in nodes:
        output, kind, *names = re.findall(r'\w+', line)
        options = dict(to=onnx.TensorProto.FLOAT) if kind == 'Cast' else {}
        made.append(onnx.helper.make_node(kind, names, [output], **options))
    values = [onnx.numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    graph = onnx.helper.make_graph(made, 'toy', ports(inputs), ports(outputs), values)
    opset = [onnx.helper.make_opsetid('', 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """An export whose masks hang on picture and sentence, made by hand: that of a toy model takes half a minute."""
    folder = tmp_path_factory.mktemp('exported')
    maps = ['images', 1, 32, 48]
    save_graph(
        folder / 'image.onnx',
        dict(images=['images', 3, 32, 48]),
        dict(features=maps),
        dict(axes=np.array([1]), largest=np.float32(25.5)),
        ['grey = ReduceMean(images, axes)', 'features = Div(grey, largest)'],
    )
    constants = dict(axes=np.array([1]), shape=np.array([-1, 1, 1, 1]), five=np.float32(5))
    nodes = ['values = Cast(tokens)', 'sums = ReduceSum(values, axes)', 'waves = Sin(sums)']
    nodes += ['shifts = Reshape(waves, shape)', 'own = Gather(features, image_index)', 'middle = Sub(own, five)']
    nodes += ['logits = Add(middle, shifts)', 'probabilities = Sigmoid(logits)']
    inputs = dict(tokens=['sentences', 17], image_index=['sentences'], features=maps)
    outputs = {name: ['sentences', 1, 32, 48] for name in ('probabilities', 'logits')}
    save_graph(folder / 'text.onnx', inputs, outputs, constants, nodes)
    shutil.copy(default_bpe(), folder / 'bpe.txt.gz')
    facts = dict(
        files={'image.onnx': {}, 'text.onnx': {}},
        image=dict(size=[32, 48], border=[122.77, 116.75, 104.09], cubic_coefficient=-0.75),
        text=dict(vocabulary='bpe.txt.gz', context_length=17, start=49406, end=49407, pad=0),
        threshold=0.35,
    )
    (folder / 'export.json').write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope='module')
def files():
    return [file_of(picture(48, 80)), file_of(picture(90, 31, seed=2)), file_of(picture(60, 60, seed=3), 'jpeg')]


def ask(file, sentences, limits=None):
    return answering.read_question(base64.b64encode(file).decode(), None, sentences, limits or answering.Limits())


@pytest.mark.parametrize('batch_size', [1, 4])
def test_questions_of_several_pictures_are_answered_together_as_one_by_one(exported, files, batch_size):
    server = answering.Answering(exported, batch_size=batch_size)
    found = server.answer(
        [ask(files[0], TEXTS), ask(files[1], TEXTS[:1]), ask(files[0], TEXTS[1:]), ask(files[2], TEXTS)]
    )
    assert server.pictures.num_encoded == 3
    alone = segment.Segmenter(exported)
    shares = set()
    for one, file, texts in zip(found, (0, 1, 0, 2), (TEXTS, TEXTS[:1], TEXTS[1:], TEXTS), strict=True):
        alone.set_image(segment.read_picture(io.BytesIO(files[file])))
        for answer, expected in zip(one['answers'], alone.predict(texts), strict=True):
            assert answer['sentence'] == expected.text and answer['score'] == pytest.approx(expected.score, abs=1e-4)
            assert mask_of(answer).shape == expected.mask.shape == (one['height'], one['width'])
            shares.add(round(float(expected.mask.mean()), 3))
            assert 0.02 < expected.mask.mean() < 0.98 and (mask_of(answer) != expected.mask).mean() < 0.002
            left, top, right, bottom = answer['box']
            assert mask_of(answer)[top:bottom, left:right].sum() == mask_of(answer).sum()
    assert len(shares) == 7, 'each sentence has another mask in each picture'
    json.dumps(found)


def test_a_picture_that_was_sent_is_asked_about_by_its_id(exported, files):
    server = answering.Answering(exported)
    first = server.answer([ask(files[0], TEXTS)])[0]
    again = answering.read_question(None, first['picture_id'], TEXTS, server.limits)
    assert server.answer([again]) == [first] and server.pictures.num_encoded == 1
    unknown = answering.read_question(None, 'f' * 64, TEXTS, server.limits)
    assert server.answer([unknown])[0].status == 404


def test_kept_pictures_are_bounded_and_the_one_asked_about_longest_ago_goes(exported, files):
    server = answering.Answering(exported)
    ids = [server.answer([ask(file, TEXTS[:1])])[0]['picture_id'] for file in files]
    size = max(map(answering.size_of, server.pictures._kept.values()))
    server = answering.Answering(exported, answering.Limits(cache_megabytes=2.5 * size / 1e6))
    for index in (0, 1, 0, 2):
        server.answer([ask(files[index], TEXTS[:1])])
    assert server.pictures.num_encoded == 3
    statuses = []
    for picture_id in ids:
        found = server.answer([answering.read_question(None, picture_id, ['a'], server.limits)])[0]
        statuses.append(found.status if isinstance(found, answering.Refusal) else 200)
    assert statuses == [200, 404, 200]


LIMITS = answering.Limits(max_megabytes=1, max_pixels=5000, max_sentences=3)
PNG = file_of(picture(48, 80))
IHDR = b'IHDR' + (60000).to_bytes(4, 'big') * 2 + PNG[24:29]
BOMB = PNG[:12] + IHDR + zlib.crc32(IHDR).to_bytes(4, 'big') + PNG[33:]
WRONG = [
    (dict(sentences=['a']), 422, 'either "picture"'),
    (dict(sentences=['a'], picture='aaaa', picture_id='a'), 422, 'either "picture"'),
    (dict(sentences=[], picture_id='a'), 422, '"sentences" is empty'),
    (dict(sentences=['a', ' \n'], picture_id='a'), 422, 'sentence 2 is empty'),
    (dict(sentences=['a', '\ud800 b'], picture_id='a'), 422, 'sentence 2 holds half of a character'),
    (dict(sentences=['a'], picture_id='\udfff'), 422, '"picture_id" holds half of a character'),
    (dict(sentences=['a'] * 4, picture_id='a'), 422, '4 sentences are too many: at most 3'),
    (dict(sentences=['a'], picture_id='nothing'), 404, 'send the picture itself'),
    (dict(sentences=['a'], picture='no base64!'), 400, 'not base64'),
    (dict(sentences=['a'], picture='é' * 8), 400, 'not base64'),
    (dict(sentences=['a'], picture=''), 415, 'cannot be read as a picture'),
    (dict(sentences=['a'], picture=base64.b64encode(b'no picture').decode()), 415, 'cannot be read'),
    (dict(sentences=['a'], picture=base64.b64encode(PNG[:200]).decode()), 415, 'cannot be read'),
    (dict(sentences=['a'], picture=base64.b64encode(file_of(picture(60, 90))).decode()), 413, '90 x 60 pixels'),
    (dict(sentences=['a'], picture=base64.b64encode(BOMB).decode()), 413, 'pixels'),
    (dict(sentences=['a'], picture='a' * 1_400_000), 413, 'larger than 1 MB'),
]


def test_what_is_wrong_with_a_request_is_said_and_spoils_no_other(exported):
    server = answering.Answering(exported, LIMITS)
    asked = [dict(dict(picture=None, picture_id=None), **content) for content, _, _ in WRONG]
    questions = [answering.read_question(**content, limits=LIMITS) for content in asked]
    good = ask(PNG, ['a cat'], LIMITS)
    *found, last = server.answer([*questions, good])
    for refusal, (_, status, message) in zip(found, WRONG, strict=True):
        assert refusal.status == status and message in refusal.detail
    assert last['answers'][0]['sentence'] == 'a cat'


def test_what_comes_while_a_batch_is_answered_is_the_next_batch():
    seen, begun, goes_on = [], threading.Event(), threading.Event()

    def answer(questions):
        seen.append(questions)
        begun.set()
        assert goes_on.wait(10)
        if 'bad' in questions:
            raise ValueError('what the batch raised')
        return [question.upper() for question in questions]

    async def visit():
        batches = answering.Batches(answer, most=3, most_waiting=5)
        first = asyncio.create_task(batches.ask('a'))
        await asyncio.to_thread(begun.wait, 10)
        others = [asyncio.create_task(batches.ask(question)) for question in ('b', 'c', 'd', 'bad', 'e')]
        await asyncio.sleep(0)
        refused = await batches.ask('f')
        goes_on.set()
        answers = await asyncio.gather(first, *others, return_exceptions=True)
        return refused, answers, await batches.ask('g')

    refused, answers, last = asyncio.run(visit())
    assert seen == [['a'], ['b', 'c', 'd'], ['bad', 'e'], ['g']]
    assert answers[:4] == ['A', 'B', 'C', 'D'] and last == 'G' and refused.status == 503
    assert [str(error) for error in answers[4:]] == ['what the batch raised'] * 2


def test_who_gives_up_leaves_the_answers_of_the_others():
    begun, goes_on = threading.Event(), threading.Event()

    def answer(questions):
        begun.set()
        assert goes_on.wait(10)
        return questions

    async def visit():
        batches = answering.Batches(answer, most=3, most_waiting=5)
        asked = [asyncio.create_task(batches.ask(question)) for question in ('a', 'b', 'c')]
        await asyncio.to_thread(begun.wait, 10)
        asked[0].cancel()
        await asyncio.sleep(0)
        goes_on.set()
        return await asyncio.wait_for(asyncio.gather(*asked[1:]), 10), await batches.ask('d')

    assert asyncio.run(visit()) == (['b', 'c'], 'd')


@pytest.mark.parametrize(
    'words',
    [('--port', '99999'), ('--port', 'x'), ('--max-requests', '0'), ('--batch-size', '-1'), ('--threads', '-2')],
)
def test_numbers_that_cannot_be_are_refused(capsys, words):
    pytest.importorskip('litserve', reason='LitServe is not installed (projects/serving/requirements.txt)')
    with pytest.raises(SystemExit) as ended:
        load('server').build_parser().parse_args(['exported', *words])
    assert ended.value.code == 2 and f'argument {words[0]}: ' in capsys.readouterr().err


@pytest.mark.processes
def test_the_server_answers_many_at_one_time_and_refuses_what_is_wrong(exported, files, tmp_path):
    pytest.importorskip('litserve', reason='LitServe is not installed (projects/serving/requirements.txt)')
    load_test = load('load_test')
    limits = ('--max-megabytes', '1', '--max-pixels', '5000', '--max-sentences', '3')
    with load_test.serve(exported, *limits, log=tmp_path / 'log.txt') as port:
        expected = {}
        server = answering.Answering(exported)
        for index, file in enumerate(files):
            expected[index] = server.answer([ask(file, TEXTS)])[0]
        client = load_test.client_of(port, files)
        requests = [(index % 3, TEXTS) for index in range(12)]

        def one(request):
            if request is None:
                return load_test.send(port, dict(sentences=['a'], picture='aaaa'))
            return client(request)

        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(one, [each for request in requests for each in (request, None)]))
        for (index, _), answer, refused in zip(requests, found[::2], found[1::2], strict=True):
            assert refused[0] == 415
            for answered, wanted in zip(answer['answers'], expected[index]['answers'], strict=True):
                assert (mask_of(answered) != mask_of(wanted)).mean() < 0.002
        for content, status, message in WRONG:
            told = load_test.send(port, content)
            assert told[0] == status and message in told[1]['detail'], content
        for content in (b'{', b'[]', b'', b'{"sentences": "a"}', b'{"sentences": [1]}', b'\xff'):
            status, told = load_test.send(port, content)
            assert status in (400, 422) and 'detail' in told and len(json.dumps(told)) < 500
        assert load_test.send(port, b'{"sentences": ["a"], "picture": "' + b'a' * 3_000_000 + b'"}')[0] == 413
        assert client(requests[0])['answers'][0]['sentence'] == TEXTS[0], 'it is still there'
    assert 'Traceback' not in (tmp_path / 'log.txt').read_text()
    commands = [path.read_bytes() for path in Path('/proc').glob('[0-9]*/cmdline') if path.is_file()]
    assert not [one for one in commands if str(port).encode() in one.split(b'\0')], 'it has left no process behind'
