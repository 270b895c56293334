"""Write a referring model as ONNX and torch.export files, with a JSON that tells a runtime the rest.

    <out_dir>/whole.onnx, image.onnx, text.onnx      see :mod:`mmetris.deployment.parts`
    <out_dir>/whole.pt2, image.pt2, text.pt2         the same for torch.export.load
    <out_dir>/export.json                            inputs and outputs, preprocessing, tokens, thresholds
    <out_dir>/bpe_simple_vocab_16e6.txt.gz           CLIP's vocabulary, from open_clip, whose licence is beside it

Every file is run and compared with the model before the folder appears under its name.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmetris.apis.asking import Asker
from mmetris.apis.model import init_model
from mmetris.apis.model_zoo import find_model
from mmetris.models import BridgedModel
from mmetris.utils.autocast import set_test_dtype
from mmetris.utils.tokenizer import EOS_TOKEN, PAD_TOKEN, SOS_TOKEN
from mmetris.version import __version__

from .parts import ImagePart, TextPart, WholeModel

FORMATS = dict(onnx='.onnx', torch='.pt2')
PARTS = dict(whole=('whole',), split=('image', 'text'))
OPSET = 18
# Of probabilities and scores, and of logits, boxes and features relative to the largest of them.
TOLERANCE = 1e-3
DESCRIPTION = 'export.json'
CHECK_SENTENCES = ('the red circle', 'a dog', 'the second person from the right in a blue shirt', 'left', 'the big one')
# A protobuf file ends at 2 GB; larger models keep their weights in a file beside.
MAX_INLINE_BYTES = 1_800_000_000


class DeviationError(RuntimeError):
    """An exported file computes something else than the model."""


class Port(NamedTuple):
    """An input or output of a file.

    Attributes:
        name: Its name in the ONNX file.
        dtype: ``'float32'`` or ``'int64'``.
        shape: Sides; those with a name instead of a number are free.
    """

    name: str
    dtype: str
    shape: tuple[str | int, ...]


class Part(NamedTuple):
    """A module to export.

    Attributes:
        name: ``'whole'``, ``'image'`` or ``'text'``.
        module: It takes the inputs in their order.
        inputs: Its inputs.
        outputs: Its outputs.
    """

    name: str
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def export_model(
    model: str | os.PathLike | Config | None,
    out_dir: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    formats: Sequence[str] = ('onnx',),
    parts: Sequence[str] = ('whole', 'split'),
    size: Sequence[int] | None = None,
    opset: int = OPSET,
    check: bool = True,
    force: bool = False,
    report: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """Export a model.

    Args:
        model: Config file, name in the model index, folder of a training, config; None is the demo model.
        out_dir: Folder to write. It must not exist, or be empty, unless ``force`` is given.
        weights: Checkpoint. Defaults to None: those that belong to ``model``.
        formats: ``'onnx'``, ``'torch'`` or both. Defaults to ``('onnx',)``.
        parts: ``'whole'``, ``'split'`` (the files image and text) or both. Defaults to ``('whole', 'split')``.
        size: Height and width of the network's input. Defaults to None: those of the test pipeline.
        opset: ONNX operator set. Defaults to 18.
        check: Whether each file is run and compared with the model. Defaults to True.
        force: Whether an earlier export in ``out_dir`` is replaced. Defaults to False.
        report: Called with each line of the report. Defaults to :func:`print`.

    Returns:
        What ``export.json`` has.

    Raises:
        FileExistsError: If ``out_dir`` is there already, or holds something else than an export.
        FileNotFoundError: If model or weights are missing.
        ImportError: If a package that the formats need is missing, or PyTorch is too old.
        ValueError: If the model cannot be exported, or not at this size.
        DeviationError: If a file disagrees with the model; nothing is written then.
        RuntimeError: If PyTorch cannot export the model.
    """
    formats = _known(formats, FORMATS, 'formats')
    names = [name for part in _known(parts, PARTS, 'parts') for name in PARTS[part]]
    out_dir = Path(out_dir)
    _check_packages(formats, check)
    _check_target(out_dir, force)
    files = find_model(model, weights)
    set_test_dtype(files.config, 'float32')  # Whoever runs the file chooses its precision.
    network: Any = init_model(files.config, files.weights, device='cpu')
    asker = Asker(network, files.config)
    takes_sentences = asker.by_sentence and not asker.by_class and isinstance(network, BridgedModel)
    if files.weights is None or not takes_sentences:
        raise ValueError(
            f'{type(network).__name__} cannot be exported: only models that take sentences (ReferringSegmentor, and '
            'those of projects/grounding) can'
        )
    letterbox = _letterbox_of(asker)
    input_hw = _check_size(network, letterbox.size if size is None else size)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f'.{out_dir.name}_', dir=out_dir.parent))
    try:
        built = make_parts(network, input_hw, asker.max_tokens, names)
        description: dict[str, Any] = dict(
            format_version=1,
            mmetris=__version__,
            torch=torch.__version__,
            opset=opset if 'onnx' in formats else None,
            model=Path(files.config.filename or 'config').stem,
            weights=Path(files.weights).name,
            files={},
            image=_describe_image(network, letterbox, input_hw),
            text=_describe_text(network, asker.max_tokens),
            threshold=asker.own_threshold,
        )
        if asker.no_target_rule is not None:
            description['no_target'] = asker.no_target_rule._asdict()
        if asker.gives_boxes:
            description['boxes'] = dict(
                form='left, top, right, bottom in pixels of the input', threshold=asker.box_threshold
            )
        for part in built:
            program = _trace(part, network.text_encoder.tokenizer)
            for kind in formats:
                path = temporary / (part.name + FORMATS[kind])
                _write(program, part, path, opset)
                description['files'][path.name] = dict(
                    part=part.name,
                    format=kind,
                    inputs=[port._asdict() for port in part.inputs],
                    outputs=[port._asdict() for port in part.outputs],
                )
        if check:
            for kind in formats:
                _check(network, built, temporary, kind, input_hw, asker.max_tokens, description, report)
        if network.reads_clip_tokens:
            _copy_vocabulary(temporary)
        content = json.dumps(description, indent=2) + '\n'
        (temporary / DESCRIPTION).write_text(content, encoding='utf-8')
        _put_in_place(temporary, out_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return json.loads(content)


def make_parts(
    model: BridgedModel,
    input_hw: tuple[int, int],
    num_tokens: int,
    names: Sequence[str] = ('whole', 'image', 'text'),
) -> list[Part]:
    """The modules to export, with their inputs and outputs.

    Args:
        model: The model, in evaluation mode, on the CPU.
        input_hw: Size of the network's input.
        num_tokens: L.
        names: Which of them. Defaults to all three.
    """
    image_part = ImagePart(model)
    with torch.no_grad():
        features = image_part(torch.zeros(1, 3, *input_hw))
        answer = WholeModel(model, input_hw)(
            torch.zeros(1, 3, *input_hw), model.text_encoder.tokenizer(['a'], num_tokens)
        )
    labels = ['features'] if len(features) == 1 else [f'features_{index}' for index in range(1, len(features) + 1)]
    feature_ports = tuple(
        Port(label, 'float32', ('images', *feature.shape[1:])) for label, feature in zip(labels, features)
    )

    gives_boxes = getattr(model, 'gives_boxes', False)
    gives_masks = not gives_boxes or cast(Any, model).mask_threshold is not None
    answered = [
        *(('probabilities', 'logits') if gives_masks else ()),
        *(('no_target_scores',) if cast(Any, model).no_target_rule is not None else ()),
        *(('boxes', 'box_scores') if gives_boxes else ()),
    ]
    assert len(answered) == len(answer)

    def answers(rows: str) -> tuple[Port, ...]:
        return tuple(Port(name, 'float32', (rows, *output.shape[1:])) for name, output in zip(answered, answer))

    parts = []
    if 'whole' in names:
        inputs = Port('images', 'float32', ('batch', 3, *input_hw)), Port('tokens', 'int64', ('batch', num_tokens))
        parts.append(Part('whole', WholeModel(model, input_hw), inputs, answers('batch')))
    if 'image' in names:
        parts.append(Part('image', image_part, (Port('images', 'float32', ('images', 3, *input_hw)),), feature_ports))
    if 'text' in names:
        inputs = Port('tokens', 'int64', ('sentences', num_tokens)), Port('image_index', 'int64', ('sentences',))
        parts.append(Part('text', TextPart(model, input_hw), (*inputs, *feature_ports), answers('sentences')))
    return parts


def _known(values: Sequence[str], known: dict[str, Any], what: str) -> list[str]:
    """The values without repetitions, if all are known."""
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        raise ValueError(f'{what} must be among {", ".join(known)}, but are {list(values)}')
    return list(dict.fromkeys(values))


def _check_packages(formats: Sequence[str], check: bool) -> None:
    needed = [] if 'onnx' not in formats else ['onnx', 'onnxscript', *(['onnxruntime'] if check else [])]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        without = '; or leave the comparison out with --no-check' if missing == ['onnxruntime'] else ''
        raise ImportError(
            f'ONNX files need {" and ".join(missing)}: install the extra "export" of mmetris '
            f'(pip install -r requirements/export.txt){without}'
        )


def _check_target(out_dir: Path, force: bool) -> None:
    if out_dir.is_dir() and not any(out_dir.iterdir()):
        return
    if out_dir.exists() and not force:
        raise FileExistsError(f'{out_dir} is there already; give another folder, or --force to replace an export')
    if out_dir.exists() and not (out_dir / DESCRIPTION).is_file():
        raise FileExistsError(f'{out_dir} is no export (it has no {DESCRIPTION}) and is not replaced')


def _letterbox_of(asker: Asker) -> Any:
    """The step that fits pictures in, which must be the only one: a runtime does that and nothing else."""
    steps = [step for step in asker.pipeline.transforms if not type(step).__name__.startswith('Pack')]
    if [type(step).__name__ for step in steps] != ['Letterbox']:
        names = ', '.join(type(step).__name__ for step in steps) or 'nothing'
        raise ValueError(
            'only models whose test pipeline letterboxes pictures, and nothing else, can be exported; '
            f'this one has {names}'
        )
    return steps[0]


def _check_size(model: BridgedModel, size: Sequence[int]) -> tuple[int, int]:
    divisor = int(np.lcm(model.backbone.size_divisor, model.data_preprocessor.size_divisor or 1))
    if len(size) != 2 or any(side < 1 or side % divisor for side in size):
        raise ValueError(
            f'height and width must be positive multiples of {divisor} (the stride of the image '
            f'encoder), but are {" ".join(map(str, size))}'
        )
    return int(size[0]), int(size[1])


def _describe_image(model: BridgedModel, letterbox: Any, input_hw: tuple[int, int]) -> dict[str, Any]:
    """What a runtime does with a picture before it is an input."""
    preprocessor = model.data_preprocessor
    mean = preprocessor.mean.flatten().tolist() if preprocessor.normalises else [0.0, 0.0, 0.0]
    std = preprocessor.std.flatten().tolist() if preprocessor.normalises else [1.0, 1.0, 1.0]
    return dict(
        channels='RGB',
        range=[0, 255],
        size=list(input_hw),
        fit='letterbox',
        interpolation='cubic',
        cubic_coefficient=-0.75,
        border=[float(value) for value in letterbox.border_value[::-1]],
        normalised_inside=dict(mean=mean, std=std),
    )


def _describe_text(model: BridgedModel, num_tokens: int) -> dict[str, Any]:
    """How a sentence becomes token ids, if it does as in CLIP."""
    if not model.reads_clip_tokens:
        return dict(context_length=num_tokens, vocabulary=None)
    return dict(
        context_length=num_tokens,
        start=SOS_TOKEN,
        end=EOS_TOKEN,
        pad=PAD_TOKEN,
        vocabulary=_vocabulary().name,
        cleaning=['ftfy.fix_text', 'html.unescape twice', 'single spaces', 'lower case'],
        vocabulary_source="OpenAI's CLIP, as shipped with open_clip; MIT License, (c) 2021 OpenAI",
    )


def _vocabulary() -> Path:
    from open_clip.tokenizer import default_bpe

    return Path(default_bpe())


def _copy_vocabulary(folder: Path) -> None:
    shutil.copyfile(_vocabulary(), folder / _vocabulary().name)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files('open_clip_torch') or ():
            if file.name == 'LICENSE' and (licence := Path(file.locate())).is_file():
                shutil.copyfile(licence, folder / 'LICENSE.open_clip.txt')


def _examples(ports: Sequence[Port], rows: int, tokenize: Callable[..., Tensor]) -> tuple[Tensor, ...]:
    """Inputs to trace with; what they hold does not matter, but sentences must end and indices exist."""
    inputs = []
    for port in ports:
        free = dict(batch=rows, sentences=rows, images=2)
        sides = [free[side] if isinstance(side, str) else side for side in port.shape]
        if port.name == 'tokens':
            inputs.append(tokenize(list(CHECK_SENTENCES[:rows]), sides[1]))
        elif port.name == 'image_index':
            inputs.append(torch.arange(rows) % 2)
        else:
            inputs.append(torch.zeros(sides))
    return tuple(inputs)


def _trace(part: Part, tokenize: Callable[..., Tensor]) -> torch.export.ExportedProgram:
    """The part as a graph whose named sides are free."""
    free = {side: torch.export.Dim(side) for port in part.inputs for side in port.shape if isinstance(side, str)}
    shapes: list[Any] = [{0: free[str(port.shape[0])]} for port in part.inputs]
    if part.name == 'text':
        shapes = [*shapes[:2], tuple(shapes[2:])]
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(
                part.module.eval(), _examples(part.inputs, 3, tokenize), dynamic_shapes=tuple(shapes), strict=False
            )
    except Exception as error:  # Whatever an operator that cannot be traced leads to.
        raise RuntimeError(f'{part.name} cannot be exported: {_first_line(error)}') from error
    for node in program.graph.nodes:
        node.meta.pop('stack_trace', None)  # It names the files of this machine.
    _leave_out_unused(program)
    return program


def _leave_out_unused(program: torch.export.ExportedProgram) -> None:
    """Remove weights that the graph does not read: a part has those of the whole model."""
    specs = program.graph_signature.input_specs
    nodes = {node.name: node for node in program.graph.nodes if node.op == 'placeholder'}
    for spec in list(specs):
        if spec.kind.name in ('PARAMETER', 'BUFFER') and not nodes[spec.arg.name].users:
            program.graph.erase_node(nodes[spec.arg.name])
            specs.remove(spec)
            program.state_dict.pop(spec.target, None)
            program.constants.pop(spec.target, None)
    program.graph_module.recompile()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says to its developers."""
    loggers = [logging.getLogger(name) for name in ('onnxscript', 'onnx_ir', 'torch.onnx')]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def _write(program: torch.export.ExportedProgram, part: Part, path: Path, opset: int) -> None:
    if path.suffix == FORMATS['torch']:
        torch.export.save(program, path)
        return
    import onnxscript.optimizer

    try:
        with _quiet():
            onnx_program = torch.onnx.export(
                program,
                args=(),
                input_names=[port.name for port in part.inputs],
                output_names=[port.name for port in part.outputs],
                opset_version=opset,
                dynamo=True,
                verbose=False,
                optimize=False,
            )
            assert onnx_program is not None  # With `dynamo` there is one.
            # A third of the nodes are left after the first round, and hardly fewer after PyTorch's second.
            onnxscript.optimizer.optimize(onnx_program.model, num_iterations=1)
    except Exception as error:
        raise RuntimeError(f'{part.name} cannot be written as ONNX: {_first_line(error)}') from error
    _name_sides(onnx_program.model.graph, part)
    large = sum(weight.nbytes for weight in program.state_dict.values()) > MAX_INLINE_BYTES
    onnx_program.save(str(path), external_data=large)


def _name_sides(graph: Any, part: Part) -> None:
    """Give the free sides of inputs and outputs their names; tracing has numbered them."""
    import onnx_ir

    for values, ports in ((graph.inputs, part.inputs), (graph.outputs, part.outputs)):
        for value, port in zip(values, ports):
            value.shape = onnx_ir.Shape(port.shape)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _runner(path: Path) -> Callable[..., list[np.ndarray]]:
    """A file as a function of arrays."""
    if path.suffix == FORMATS['onnx']:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
        names = [port.name for port in session.get_inputs()]
        return lambda *arrays: session.run(None, dict(zip(names, arrays)))
    module = torch.export.load(path).module()

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [output.numpy() for output in module(*map(torch.from_numpy, arrays))]

    return run


def _check(
    model: BridgedModel,
    parts: Sequence[Part],
    folder: Path,
    kind: str,
    input_hw: tuple[int, int],
    num_tokens: int,
    description: dict[str, Any],
    report: Callable[[str], Any],
) -> None:
    """Run the files of one format on three images and five sentences and on one of each; compare with the model.

    Raises:
        DeviationError: If they differ by more than :data:`TOLERANCE`.
    """
    run = {part.name: _runner(folder / (part.name + FORMATS[kind])) for part in parts}
    largest: dict[str, dict[str, float]] = {name: {} for name in run}
    for num_images, num_sentences in ((3, 5), (1, 1)):
        images = np.random.default_rng(0).uniform(0, 255, (num_images, 3, *input_hw)).astype(np.float32)
        tokens = model.text_encoder.tokenizer(list(CHECK_SENTENCES[:num_sentences]), num_tokens).numpy()
        index = np.arange(num_sentences) % num_images
        with torch.no_grad():
            features = [feature.numpy() for feature in ImagePart(model)(torch.from_numpy(images))]
            expected = [
                output.numpy()
                for output in WholeModel(model, input_hw)(torch.from_numpy(images[index]), torch.from_numpy(tokens))
            ]
        found = {}
        if 'whole' in run:
            found['whole'] = run['whole'](images[index], tokens)
        if 'image' in run:
            # The features of the file, not the model's: what counts is that both together are the whole.
            found['image'] = features_found = run['image'](images)
            found['text'] = run['text'](tokens, index, *features_found)
        for part in parts:
            references = features if part.name == 'image' else expected
            for port, reference, result in zip(part.outputs, references, found[part.name], strict=True):
                off = _deviation(port.name, reference, result)
                largest[part.name][port.name] = float(np.maximum(off, largest[part.name].get(port.name, 0.0)))
    for part in parts:
        name = part.name + FORMATS[kind]
        description['files'][name]['largest_deviation'] = largest[part.name]
        line = ', '.join(f'{port} {off:.1e}' for port, off in largest[part.name].items())
        report(f'{name}: largest deviation from PyTorch: {line}')
        if not all(off <= TOLERANCE for off in largest[part.name].values()):  # Not of NaN, either.
            raise DeviationError(f'{name} deviates from the model by more than {TOLERANCE:g} ({line}); nothing is kept')


def _deviation(name: str, reference: np.ndarray, result: np.ndarray) -> float:
    """Largest difference; of what is no probability, relative to the largest value (at least 1)."""
    if reference.shape != result.shape:
        raise DeviationError(f'{name} has the shape {result.shape} instead of {reference.shape}; nothing is kept')
    is_share = name in ('probabilities', 'no_target_scores', 'box_scores')
    scale = 1.0 if is_share else max(1.0, float(np.abs(reference).max()))
    return float(np.abs(result - reference).max()) / scale


def _put_in_place(temporary: Path, out_dir: Path) -> None:
    """The finished folder takes its name, and an earlier export gives way."""
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o777 & ~mask)  # mkdtemp's folders are for their owner only.
    if not out_dir.exists():
        temporary.replace(out_dir)
        return
    with tempfile.TemporaryDirectory(prefix=f'.{out_dir.name}_', dir=out_dir.parent) as old:
        out_dir.replace(Path(old) / 'old')
        try:
            temporary.replace(out_dir)
        except OSError:
            (Path(old) / 'old').replace(out_dir)
            raise
