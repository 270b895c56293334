"""What a task costs: time, memory, FLOPs, and the share of what this machine reaches in a large matrix product.

A *task* is one repetition of something a user waits for, on random weights and random pixels, which cost what real ones
do. Calls that are to be compared take turns, so that what else the machine does meets all of them; the matrix product
takes its turn among them. Axes: B images, K sentences for each, H W pixels.
"""

from __future__ import annotations

import ctypes
import gc
import json
import pickle
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
from mmengine.structures import PixelData
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mmetris.models.segmentors.prefix_cache import PrefixCache
from mmetris.registry import DATASETS, MODELS
from mmetris.structures import RefDataSample
from mmetris.utils.compiling import compile_parts, eager
from mmetris.utils.plain_path import plain_path
from mmetris.utils.tokenizer import tokenize

TASKS = ('infer', 'multi', 'train', 'data', 'semseg')
PATHS = ('fast', 'plain', 'unshared', 'cached', 'compiled')
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)
SENTENCES = ('the man in the red coat', 'left person', 'the second dog from the right', 'a blue cup on the table')
# torch's own formulas, which some of its releases do not apply to the kernels of CPUs.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
        lambda query, key, value, *args, **kwargs: sdpa_flop_count(query, key, value),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward:
        lambda grad, query, key, value, *args, **kwargs: sdpa_backward_flop_count(grad, query, key, value),
}
PHOTO_HW = (480, 640)  # what most of COCO's images have


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Args:
        task: One of ``TASKS``: ``'infer'``: mask logits of B images, one sentence each; ``'multi'``: of B images with K
            sentences each; ``'train'``: a whole optimizer step on B images with K sentences each; ``'data'``: B samples
            from JPEG file to packed sample, in this process; ``'semseg'``: a class for each pixel of B images.
        batch: B. Defaults to 1.
        expressions: K. Defaults to 1.
        hw: Height and width of the input. Defaults to ``(416, 416)``.
        dtype: Name of a type in ``DTYPES``; other than float32, autocast to it surrounds the call. Defaults to
            ``'float32'``.
        device: Defaults to ``'cpu'``.
        plain_dtype: Type of the literal computation. Defaults to None: ``dtype``.
        channels_last: Whether convolutions work on that layout. Defaults to False.
        graph_from_stem: See :func:`plain_path`. Defaults to True.
        own_data: Task ``'data'``: read the config's own data set, not drawn photographs. Defaults to False.
        matmul_side: Side of the square matrix product. Defaults to None: 8192 on a GPU, 2048 elsewhere.
    """

    task: str
    batch: int = 1
    expressions: int = 1
    hw: tuple[int, int] = (416, 416)
    dtype: str = 'float32'
    plain_dtype: str | None = None
    device: str = 'cpu'
    channels_last: bool = False
    graph_from_stem: bool = True
    own_data: bool = False
    matmul_side: int | None = None

    @property
    def sentences(self) -> int:
        """Sentences of one repetition."""
        return self.batch * self.expressions

    def autocast(self, path: str = 'fast') -> torch.autocast:
        """The context of a call on one of ``PATHS``."""
        dtype = self.plain_dtype or self.dtype if path == 'plain' else self.dtype
        return torch.autocast(self.device.split(':')[0], DTYPES[dtype], enabled=dtype != 'float32')


class Task(NamedTuple):
    """One thing to time.

    Args:
        call: One repetition.
        model: The model it runs.
        unshared: The same with each sentence's image encoded by itself, None where there is one sentence for each.
    """

    call: Callable[[], Any]
    model: nn.Module
    unshared: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Measurement:
    """What was measured of one path.

    Args:
        path: ``'fast'``; ``'plain'``; or the fast one but for one thing: ``'unshared'``: each sentence has its image
            encoded anew; ``'cached'``: the frozen prefix is read from files (in the page cache); ``'compiled'``:
            Bridger (with both encoders) and decoder are compiled.
        seconds: Of each repetition.
        images: Images of one repetition (of task ``'data'``: samples).
        sentences: Sentences of one repetition.
        flops: Of one repetition, None where there are none to count.
        matmul_rate: FLOP/s of the matrix product, median of the same run.
        peak_bytes: CUDA: the most that was allocated, weights included. CPU: growth of the resident memory over that of
            the built model, in a process of its own. None: not measured.
    """

    path: str
    seconds: tuple[float, ...]
    images: int
    sentences: int
    flops: int | None = None
    matmul_rate: float | None = None
    peak_bytes: int | None = None

    @property
    def median(self) -> float:
        """Median seconds of a repetition."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of the seconds: the spread."""
        if len(self.seconds) == 1:
            return self.seconds * 2
        first, _, third = statistics.quantiles(self.seconds, n=4, method='inclusive')
        return first, third

    @property
    def matmul_share(self) -> float | None:
        """FLOP/s over those of the matrix product, 0..1 (and above, where the product is not the machine's best)."""
        if self.flops is None or self.matmul_rate is None:
            return None
        return self.flops / self.median / self.matmul_rate

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON: seconds, rates per second, bytes, FLOPs."""
        return dict(
            path=self.path,
            repeats=len(self.seconds),
            median_s=self.median,
            quartiles_s=self.quartiles,
            images_per_s=self.images / self.median,
            sentences_per_s=self.sentences / self.median,
            flops=self.flops,
            flops_per_s=None if self.flops is None else self.flops / self.median,
            matmul_flops_per_s=self.matmul_rate,
            matmul_share=self.matmul_share,
            peak_bytes=self.peak_bytes,
        )


def measure(cfg: Config, setting: Setting, paths: tuple[str, ...] = ('fast',), repeats: int = 10,
            with_memory: bool = True) -> list[Measurement]:
    """Measure one task.

    Args:
        cfg: Config of the model; weight files are not read.
        setting: What is measured.
        paths: Of ``PATHS``, which take turns. Defaults to the fast one alone.
        repeats: Timed repetitions of each, after one that warms up. Defaults to 10.
        with_memory: Whether peak memory is measured. Defaults to True.

    Returns:
        One for each of ``paths``.

    Raises:
        ValueError: If the config does not suit the task, its image encoder is tuned and ``paths`` has ``'cached'``, or
            there is nothing to share and ``paths`` has ``'unshared'``.
    """
    if setting.task == 'data':
        return [_measure_data(cfg, setting, repeats)]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory()) if 'cached' in paths else None
        return _measure_model(cfg, setting, paths, repeats, with_memory, folder)


def _measure_model(cfg: Config, setting: Setting, paths: tuple[str, ...], repeats: int, with_memory: bool,
                   folder: str | None) -> list[Measurement]:
    task = build_task(cfg, setting)
    if 'unshared' in paths and task.unshared is None:
        raise ValueError(f"path 'unshared' is for tasks 'multi' and 'train' with several sentences for each image, not "
                         f'for {setting.task!r} with {setting.expressions}')
    calls = {path: _on_path(path, task, setting, folder) for path in paths}
    if folder is not None:
        calls['cached']()  # What it writes is there in every later epoch.
    flops = {path: count_flops(calls['fast'] if path == 'compiled' else call) for path, call in calls.items()}
    if 'compiled' in paths:
        compile_parts(task.model)
    device, dtype = torch.device(setting.device), DTYPES[setting.dtype]
    product, product_flops = matrix_product(device, dtype, setting.matmul_side)
    seconds = time_in_turns(calls | dict(matmul=product), repeats, device)
    # A compiler needs memory of its own, which a CPU's measurement cannot tell from the model's.
    unknown = {'cached'} if device.type == 'cuda' else {'cached', 'compiled'}
    peaks = {path: peak_memory(cfg, setting, path, calls[path]) if with_memory and path not in unknown else None
             for path in paths}
    rate = product_flops / statistics.median(seconds['matmul'])
    return [
        Measurement(path, tuple(seconds[path]), setting.batch, setting.sentences, flops[path], rate, peaks[path])
        for path in paths
    ]


def time_in_turns(calls: Mapping[str, Callable], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each repetition of each call; the calls take turns, after a round that warms up.

    On CUDA a call is timed from an idle device to an idle device.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            _synchronize(device)
            started = time.perf_counter()
            call()
            _synchronize(device)
            if turn > 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def matrix_product(device: torch.device, dtype: torch.dtype, side: int | None = None) -> tuple[Callable, int]:
    """A product of two square matrices, and its FLOPs.

    Args:
        device: Where.
        dtype: Of the matrices.
        side: Rows and columns. Defaults to None: 8192 on a GPU, 2048 elsewhere.
    """
    side = side or (8192 if device.type == 'cuda' else 2048)
    left, right = (torch.randn(side, side, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    return (lambda: torch.mm(left, right, out=out)), 2 * side**3


def count_flops(call: Callable) -> int:
    """FLOPs of matrix products, convolutions and attention in a call, by torch's counter; a multiply-add is two."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        call()
    return counter.get_total_flops()


def _on_path(path: str, task: Task, setting: Setting, folder: str | None = None) -> Callable[[], Any]:
    cache = PrefixCache(folder, max_gb=100) if path == 'cached' else None

    def call() -> Any:
        plain = plain_path(task.model, setting.graph_from_stem) if path == 'plain' else nullcontext()
        task.model.prefix_cache = cache
        with nullcontext() if path == 'compiled' else eager(task.model), plain, setting.autocast(path):
            return task.unshared() if path == 'unshared' else task.call()

    return call


def build_task(cfg: Config, setting: Setting) -> Task:
    """Model with random weights, and one repetition of the task on random images.

    Args:
        cfg: Config of the model; for ``'train'`` also ``optim_wrapper``. Its ``activation_checkpointing`` is followed.
        setting: What is measured.

    Raises:
        ValueError: If the config's model does not suit the task.
    """
    model = build_model(cfg, setting)
    images = torch.randn(setting.batch, 3, *setting.hw, device=setting.device)
    if setting.channels_last:
        images = images.to(memory_format=torch.channels_last)
    if setting.task == 'semseg':
        return Task(_without_gradients(lambda: model.predict(images)), model)
    tokens = _sentences(setting, cfg.get('context_length', 17))
    if setting.task == 'train':
        step = _training_step(cfg, setting, model, images, tokens)
        return Task(step, model, _without_sharing(model, step) if setting.expressions > 1 else None)
    if setting.expressions == 1:
        return Task(_without_gradients(lambda: model.forward_logits(images, tokens)), model)
    index = torch.arange(setting.batch, device=setting.device).repeat_interleave(setting.expressions)
    return Task(_without_gradients(lambda: model.forward_logits(images, tokens, index)), model,
                _without_gradients(lambda: model.forward_logits(images[index], tokens)))


def build_model(cfg: Config, setting: Setting) -> nn.Module:
    """The config's model with random weights, in the mode of the task.

    Raises:
        ValueError: If it is no model for the task.
    """
    init_default_scope(cfg.get('default_scope', 'mmetris'))
    kind = cfg.model.type
    if (kind == 'ClassNameSegmentor') != (setting.task == 'semseg'):
        raise ValueError(f'task {setting.task!r} cannot be measured on a {kind}: "semseg" takes a ClassNameSegmentor, '
                         'the other tasks a ReferringSegmentor')
    model_cfg = cfg.model.copy()
    model_cfg.pop('prefix_cache', None)
    model_cfg.train_cfg = dict(model_cfg.get('train_cfg') or {}, share_images=setting.expressions > 1)
    model = MODELS.build(model_cfg)  # Constructors read no weights.
    model = model.to(setting.device).train(setting.task == 'train')
    if setting.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if setting.task == 'train' and cfg.get('activation_checkpointing'):
        turn_on_activation_checkpointing(model, cfg.activation_checkpointing)
    return model


def _sentences(setting: Setting, context_length: int) -> Tensor:
    count = setting.sentences
    expressions = (SENTENCES * (count // len(SENTENCES) + 1))[:count]
    return tokenize(list(expressions), context_length).to(setting.device)


def _without_gradients(call: Callable) -> Callable:
    return torch.no_grad()(call)


def _without_sharing(model: nn.Module, step: Callable) -> Callable:
    def call() -> None:
        model.train_cfg['share_images'] = False
        try:
            step()
        finally:
            model.train_cfg['share_images'] = True

    return call


def _training_step(cfg: Config, setting: Setting, model: nn.Module, images: Tensor, tokens: Tensor) -> Callable:
    """Losses, gradients and an optimizer step, as the runner does them."""
    wrapper_cfg = cfg.optim_wrapper.copy()
    if setting.dtype == 'float16':  # bfloat16 has float32's range and needs no scaling of the loss
        wrapper_cfg.update(type='AmpOptimWrapper', dtype='float16')
    counts_only = setting.device == 'meta'
    if counts_only:  # Fused optimizers refuse it.
        wrapper_cfg.optimizer = {key: value for key, value in wrapper_cfg.optimizer.items() if key != 'fused'}
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')  # MMEngine says of each parameter what its options are or that it is frozen.
    optim_wrapper = build_optim_wrapper(model, wrapper_cfg)
    logger.setLevel(level)
    samples = []
    for row, ids in enumerate(tokens):
        sample = RefDataSample(metainfo=dict(img_path=f'{row // setting.expressions}.jpg', img_shape=setting.hw))
        sample.tokens = ids
        mask = torch.zeros(1, *setting.hw, dtype=torch.long, device=setting.device)
        mask[:, : setting.hw[0] // 2] = 1
        sample.gt_sem_seg = PixelData(data=mask)
        samples.append(sample)
    images = images.repeat_interleave(setting.expressions, dim=0)

    def step() -> None:
        loss, _ = model.parse_losses(model.loss(images, samples))
        # As the runner does, outside of autocast, which there is none of on device 'meta'.
        with nullcontext() if counts_only else torch.autocast(setting.device.split(':')[0], enabled=False):
            optim_wrapper.update_params(loss)

    return step


def peak_memory(cfg: Config, setting: Setting, path: str, call: Callable) -> int:
    """Peak memory of a task in bytes; see :class:`Measurement`.

    Args:
        cfg: Config of the model, to build it anew in a fresh process (CPU).
        setting: What is measured.
        path: One of ``PATHS``.
        call: The call, to be repeated here (CUDA).
    """
    device = torch.device(setting.device)
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        call()
        _synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:  # A process keeps what it once had.
        return pool.submit(_growth_of_path, cfg.to_dict(), setting, path, torch.get_num_threads()).result()


def _growth_of_path(cfg: dict, setting: Setting, path: str, threads: int) -> int:
    torch.set_num_threads(threads)
    task = build_task(Config(cfg), setting)
    return resident_growth(_on_path(path, task, setting))


def resident_growth(call: Callable) -> int:
    """Bytes by which a call, made twice, raises this process's resident memory at its peak (Linux)."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # What was freed and is still held would take in the call's tensors unseen.
    except (AttributeError, OSError):
        pass  # Another C library than glibc.
    try:
        Path('/proc/self/clear_refs').write_text('5')  # The peak so far becomes the present value.
    except OSError:
        pass  # Then the peak may be that of the time before the call, which is more.
    before = resident_bytes('VmRSS')
    for _ in range(2):  # The first step of an optimizer makes its state, the second has it beside the gradients.
        call()
    return max(0, resident_bytes('VmHWM') - before)


def resident_bytes(field: str) -> int:
    """A field of this process's status in bytes: ``'VmRSS'``, resident memory now, or ``'VmHWM'``, its peak.

    Raises:
        OSError: If the system tells no such field; only Linux does.
    """
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f'/proc/self/status has no {field}')


def _measure_data(cfg: Config, setting: Setting, repeats: int) -> Measurement:
    """Samples through the training pipeline in this process, OpenCV on one core."""
    dataset_cfg = cfg.train_dataloader.dataset.copy()
    if not dataset_cfg.type.endswith('RefCocoDataset'):
        raise ValueError(f"task 'data' reads a RefCocoDataset, but the config's training data is a {dataset_cfg.type}")
    init_default_scope(cfg.get('default_scope', 'mmetris'))
    with ExitStack() as stack:
        threads = cv2.getNumThreads(), torch.get_num_threads()
        stack.callback(cv2.setNumThreads, threads[0])
        stack.callback(torch.set_num_threads, threads[1])
        cv2.setNumThreads(0)
        torch.set_num_threads(1)
        if not setting.own_data:
            root = stack.enter_context(tempfile.TemporaryDirectory())
            dataset_cfg.update(draw_photos(Path(root), setting.batch))
        dataset = DATASETS.build(dataset_cfg)

        def load() -> None:
            for index in range(setting.batch):
                dataset[index % len(dataset)]

        seconds = time_in_turns(dict(load=load), repeats, torch.device('cpu'))['load']
    return Measurement('fast', tuple(seconds), setting.batch, setting.batch)


def draw_photos(root: Path, number: int, hw: tuple[int, int] = PHOTO_HW) -> dict[str, Any]:
    """Write a data set in REFER's layout: JPEGs of noise with the detail of a photograph, one polygon on each.

    Args:
        root: Existing folder.
        number: Images.
        hw: Their height and width. Defaults to ``PHOTO_HW``.

    Returns:
        The arguments by which a :class:`RefCocoDataset` finds it.
    """
    (root / 'images').mkdir()
    rng, (height, width) = np.random.default_rng(0), hw
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    outline = np.stack([width * (0.5 + 0.3 * np.cos(angles)), height * (0.5 + 0.3 * np.sin(angles))], axis=1)
    images, annotations, refs = [], [], []
    for index in range(number):
        # Coarse and fine noise together make files of about 100 KB, as COCO's photographs have.
        coarse = cv2.resize(rng.normal(128, 50, (height // 32, width // 32, 3)), (width, height))
        fine = cv2.resize(rng.normal(0, 30, (height // 2, width // 2, 3)), (width, height))
        pixels = (coarse + fine).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(root / 'images' / f'{index}.jpg'), pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
        images.append(dict(id=index, file_name=f'{index}.jpg', height=height, width=width))
        annotations.append(
            dict(id=index, image_id=index, category_id=1, segmentation=[outline.round(2).ravel().tolist()]))
        sentence = SENTENCES[index % len(SENTENCES)]
        refs.append(
            dict(ref_id=index, ann_id=index, image_id=index, category_id=1, split='train', sent_ids=[index],
                 sentences=[dict(sent_id=index, sent=sentence, raw=sentence, tokens=sentence.split())]))
    (root / 'instances.json').write_text(
        json.dumps(dict(images=images, annotations=annotations, categories=[dict(id=1, name='thing')])))
    (root / 'refs(mine).p').write_bytes(pickle.dumps(refs, protocol=2))
    return dict(data_root=str(root), ann_file='instances.json', split_file='refs(mine).p',
                data_prefix=dict(img_path='images/'), split='train')


def describe_machine(device: str) -> dict[str, Any]:
    """What has to stand beside a figure: processor, threads, versions."""
    on_gpu = device.startswith('cuda')
    return dict(
        device=torch.cuda.get_device_name(device) if on_gpu else _processor(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        cuda=torch.version.cuda if on_gpu else None,
        python=platform.python_version(),
    )


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), platform.machine())
