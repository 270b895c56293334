"""What an image encoder computes before anything tuned takes part, kept on disk: it is the same in every epoch."""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from mmengine.logging import MMLogger
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmetris.structures import TreeForm, tensors_of
from mmetris.utils.autocast import dtype_of_products
from mmetris.utils.tensor_memo import TensorMemo

from ..encoders import StagedImageEncoder
from ..encoders.fingerprint import fingerprint
from ..layers.attention import Attention
from ..layers.shortcut import has_tuning_hooks, is_unaltered, structure_of
from ..necks import ImagePrefix, StagedNeck

FORMAT = 3  # Files of another number are not read.
SUFFIX = '.safetensors'
UNFINISHED = '.unfinished'
ABANDONED_AFTER = 3600  # Seconds after which an unfinished file belongs to a process that was killed.
LOOKS = 32  # How many times the folder's size is read anew while a process fills it.


class PrefixCache:
    """A folder with the :class:`ImagePrefix` of images, one file for each.

    It ends before the first stage that depends on the sentence, or that has something tuned in it; what lies between
    the two is computed each time.

    A file is found by the pixels as the encoder gets them, by the weights that take part, and by the stage and type of
    the computation. So nothing stale is ever read, and an image that is flipped or cropped is another one: with random
    transforms of many outcomes there is nothing to gain. Several processes may share a folder. When it is full, what is
    in it stays in use and nothing is added; files of weights that no longer exist are left for you to remove, a
    subfolder for each (its ``about.json`` says what it holds).

    Args:
        dir: The folder, made when the first image is kept.
        max_gb: How large it may become, in GB (1e9 bytes), all subfolders included. Processes that fill it at the same
            time may exceed it by 3 %.

    Raises:
        ValueError: If ``dir`` is a file, or ``max_gb`` is not positive.
    """

    def __init__(self, dir: str, max_gb: float) -> None:
        self.dir, self.max_bytes = Path(dir), int(max_gb * 1e9)
        if self.dir.exists() and not self.dir.is_dir():
            raise ValueError(f'prefix_cache.dir={dir!r} must be a folder, but it is a file')
        if self.max_bytes <= 0:
            raise ValueError(f'prefix_cache.max_gb must be positive, but it is {max_gb}')
        self.hits = self.misses = 0
        self._used: int | None = None  # bytes in the folder, as far as known
        self._added = 0  # of them, since it was last looked at
        self._closed = False
        self._hashes = TensorMemo()
        self._forms: dict[str, TreeForm] = {}
        self._told_of_hooks = False

    def image_prefix(self, neck: StagedNeck, image_encoder: StagedImageEncoder, images: Tensor) -> ImagePrefix:
        """:meth:`StagedNeck.image_prefix`, of which only what is not there yet is computed.

        Args:
            neck: The neck.
            image_encoder: Frozen image encoder in stages.
            images: (I, 3, H, W) normalised images.

        Raises:
            ValueError: If something tuned takes part from the start, or the encoder's weights are spread over
                processes.
        """
        stage, tail = self._end(neck, image_encoder)
        parts = [part for index in range(stage + 1) for part in image_encoder.parts(index)]
        parts += image_encoder.parts(image_encoder.num_stages + 1) if tail else ()
        if not all(is_unaltered(part) for part in parts if isinstance(part, nn.Module)):
            if not self._told_of_hooks:
                _warn('hooks are on the image encoder: nothing that it computes is kept in, or read from, the cache')
            self._told_of_hooks = True
            return neck.image_prefix(image_encoder, images)
        about = self._about(neck, image_encoder, images, stage, tail, parts)
        folder = self.dir / hashlib.sha256(about.encode()).hexdigest()[:16]
        paths = [folder / key[:2] / (key + SUFFIX) for key in map(_key_of, images.detach().cpu())]
        kept = [self._read(path) for path in paths]
        missing = [row for row, tensors in enumerate(kept) if tensors is None]
        self.hits, self.misses = self.hits + len(kept) - len(missing), self.misses + len(missing)
        # The form of what is kept, which is in no file, shows when one image of this size is encoded.
        size = f'{about}{tuple(images.shape[1:])}'
        rows = missing or ([] if size in self._forms else [0])
        if rows:
            everything = len(rows) == len(kept)
            computed = neck.image_prefix(image_encoder, images if everything else images[rows], stage, tail)
            self._forms[size] = TreeForm(computed)
            if missing:
                for row, tensors in zip(rows, _rows(computed)):
                    kept[row] = tensors
                    self._write(paths[row], tensors, folder / 'about.json', about)
            if everything:
                return neck.image_prefix(image_encoder, computed)
        full = cast('list[dict[str, Tensor]]', kept)  # What was missing is there by now.
        names = sorted(full[0], key=int)
        stacked = [torch.stack([tensors[name].to(images.device) for tensors in full]) for name in names]
        prefix = self._forms[size].fill(stacked)._replace(num_images=len(kept))
        return neck.image_prefix(image_encoder, prefix)

    @staticmethod
    def _end(neck: StagedNeck, image_encoder: StagedImageEncoder) -> tuple[int, bool]:
        """The last stage whose result is kept, and whether that of the tail is."""
        check_whole(cast(nn.Module, image_encoder))  # The contract is mixed into one.
        last = neck.prefix_stage(image_encoder)
        for index in range(last + 1):
            if (reason := what_moves(image_encoder, index)) is None:
                continue
            if index == 0:
                raise ValueError(
                    f'prefix_cache keeps what a frozen image encoder computes, but {reason}: there is nothing before '
                    'it to keep. Freeze that, or leave prefix_cache out'
                )
            return index - 1, False
        # Where the sentence never reaches the image encoder the prefix goes on to the end of the encoder.
        tail = last == image_encoder.num_stages and what_moves(image_encoder, image_encoder.num_stages + 1) is None
        return last, tail and not neck.reads_text(image_encoder)

    def _about(
        self,
        neck: StagedNeck,
        image_encoder: StagedImageEncoder,
        images: Tensor,
        stage: int,
        tail: bool,
        parts: Sequence[Any],
    ) -> str:
        """All that what is kept depends on, but the pixels."""
        modules = repr([part for part in parts if isinstance(part, nn.Module)])
        return json.dumps(
            dict(
                format=FORMAT,
                encoder=type(image_encoder).__name__,
                architecture=getattr(image_encoder, 'architecture', None),
                weights=self._weights(cast(nn.Module, image_encoder), parts),
                modules=hashlib.sha256(modules.encode()).hexdigest(),
                num_stages=image_encoder.num_stages,
                last_stage=stage,
                with_tail=tail,
                maps_of=[index for index in image_encoder.out_stages if index <= stage and index not in neck.stages],
                dtype=str(dtype_of_products(images)),
            ),
            indent=1,
        )

    def _weights(self, image_encoder: nn.Module, parts: Sequence[Any]) -> str:
        """Hash of the weights that take part, made anew only after one of them has changed."""
        used = {id(tensor) for part in parts for tensor in _tensors_of_part(part)}
        named = {**dict(image_encoder.named_parameters()), **dict(image_encoder.named_buffers())}
        weights = {
            key: value for key, value in named.items() if id(value) in used and not key.endswith('num_batches_tracked')
        }
        structure = tuple(structure_of(part) for part in parts if isinstance(part, nn.Module))
        return self._hashes.get((tuple(weights), structure), weights.values(), lambda: fingerprint('', weights).sha256)

    def _read(self, path: Path) -> dict[str, Tensor] | None:
        try:
            return load_file(path)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            _warn(f'{path} cannot be read ({error}); what it held is computed and written again')
            return None

    def _write(self, path: Path, tensors: dict[str, Tensor], about_path: Path, about: str) -> None:
        """Keep one image, whole or not at all."""
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if self._closed or not self._has_room(num_bytes):
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not about_path.exists():
                _put(about_path, lambda unfinished: unfinished.write_text(about + '\n'))
            _put(
                path, lambda unfinished: save_file({name: tensor.cpu() for name, tensor in tensors.items()}, unfinished)
            )
        except (SafetensorError, OSError) as error:
            self._closed = True
            _warn(f'nothing more is added to the prefix cache {self.dir}: {error}')
            return
        assert self._used is not None  # _has_room has looked.
        self._used, self._added = self._used + num_bytes, self._added + num_bytes

    def _has_room(self, num_bytes: int) -> bool:
        if self._used is None or self._added > self.max_bytes / LOOKS:  # Others may be adding too.
            first = self._used is None
            self._used, self._added = _bytes_in(self.dir), 0
            if first:
                MMLogger.get_current_instance().info(
                    f'Prefix cache {self.dir}: {self._used / 1e9:.2f} of {self.max_bytes / 1e9:g} GB are in use'
                )
        if self._used + num_bytes <= self.max_bytes:
            return True
        self._closed = True
        _warn(
            f'the prefix cache {self.dir} is full ({self._used / 1e9:.2f} of {self.max_bytes / 1e9:g} GB): what it '
            'holds stays in use, other images are encoded each time. Raise prefix_cache.max_gb, or remove subfolders '
            'of former models'
        )
        return False


def check_whole(image_encoder: nn.Module) -> None:
    """Check that each process can encode an image by itself.

    Raises:
        ValueError: If it cannot.
    """
    spread = getattr(image_encoder, 'weights_are_spread', False)
    if spread or any(hasattr(parameter, 'ds_id') for parameter in image_encoder.parameters()):
        raise ValueError(
            'prefix_cache does not go with FSDP and ZeRO-3, whose processes can only encode together: '
            'leave it out, or train with DDP'
        )


def what_moves(image_encoder: StagedImageEncoder, index: int) -> str | None:
    """What makes a stage compute another thing of the same image later in a training; None if nothing does.

    Args:
        image_encoder: The encoder.
        index: The stage (1-based); 0 is the stem, ``num_stages + 1`` the tail.
    """
    encoder = cast(nn.Module, image_encoder)  # The contract is mixed into one.
    for part in image_encoder.parts(index):
        for tensor in _tensors_of_part(part):
            if tensor.requires_grad:
                return f'backbone.{_name_of(tensor, encoder.named_parameters())} is tuned'
        for module in part.modules() if isinstance(part, nn.Module) else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
                name = _name_of(module, encoder.named_modules())
                return f'the statistics of backbone.{name} move (norm_eval=False)'
            if has_tuning_hooks(module) or (isinstance(module, Attention) and module.is_added_to):
                return f'a tuning method is at backbone.{_name_of(module, encoder.named_modules())}'
    return None


def _name_of(wanted: Any, named: Iterable[tuple[str, Any]]) -> str:
    """Name of a parameter or module among all of them; looked for only where it is told."""
    return next(name for name, value in named if value is wanted)


def _tensors_of_part(part: Any) -> list[Tensor]:
    return [*part.parameters(), *part.buffers()] if isinstance(part, nn.Module) else [part]


def _key_of(image: Tensor) -> str:
    """Name of one image (3, H, W), by its pixels."""
    image = image.contiguous()
    digest = hashlib.sha256(f'{tuple(image.shape)} {image.dtype}'.encode())
    digest.update(image.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:40]


def _rows(prefix: ImagePrefix) -> Iterator[dict[str, Tensor]]:
    """The tensors of each image, by their numbers in the prefix; none shares memory with another."""
    batch = {str(number): tensor for number, tensor in enumerate(tensors_of(prefix))}
    for row in range(prefix.num_images):
        yield {
            name: tensor[row].detach().clone(memory_format=torch.contiguous_format) for name, tensor in batch.items()
        }


def _put(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under another name, then give it its own in one step."""
    unfinished = path.with_name(f'{path.name}.{uuid.uuid4().hex}{UNFINISHED}')
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _bytes_in(folder: Path) -> int:
    """Size of the files in a folder; unfinished ones that a killed process left are removed."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            try:
                status = path.stat()
                if name.endswith(UNFINISHED) and time.time() - status.st_mtime > ABANDONED_AFTER:
                    path.unlink()
                else:
                    total += status.st_size
            except FileNotFoundError:
                pass  # Another process has renamed or removed it.
    return total


def _warn(message: str) -> None:
    MMLogger.get_current_instance().warning(message)
