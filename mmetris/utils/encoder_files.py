"""Files of pretrained encoders that the configs name: from where they come, and where they are looked for.

OpenAI's CLIPs stand at addresses with their sha256 in them, which open_clip knows. DINOv2's stand at addresses of one
pattern; nobody published checksums of them, so that their size alone is compared with what the server announces.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import NamedTuple

from mmetris.package import find_root

from .downloads import Fetched, NotFetchedError, assets_folder, fetch_address, scheme_of, weights_path

_CLIPS = ('RN50', 'RN101', 'RN50x4', 'RN50x16', 'RN50x64', 'ViT-B-32', 'ViT-B-16', 'ViT-L-14', 'ViT-L-14-336')
_DINOV2 = 'https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{0}14/dinov2_vit{0}14{1}_pretrain.pth'


class EncoderFile(NamedTuple):
    """A published file of an encoder's weights.

    Args:
        name: What ``mmetris download`` calls it.
        file: Its file name, by which configs name it: ``pretrained/<file>``.
        address: From where it comes.
        sha256: What it must have, None where nobody told.
    """

    name: str
    file: str
    address: str
    sha256: str | None

    @property
    def place(self) -> Path:
        """Where ``mmetris download`` puts it."""
        return assets_folder('encoders', self.name) / self.file


@functools.cache
def encoder_files() -> dict[str, EncoderFile]:
    """All of them, by their file names."""
    from open_clip.pretrained import get_pretrained_url

    found = []
    for arch in _CLIPS:
        address = get_pretrained_url(arch, 'openai')
        *_, sha256, file = address.split('/')
        name = 'clip-' + re.sub(r'vit-(\w)-(\d+)', r'vit\1\2', arch.lower())
        found.append(EncoderFile(name, file, address, sha256))
    for letter in 'sbl':
        for suffix, registers in (('', ''), ('_reg', '_reg4')):
            address = _DINOV2.format(letter, registers)
            file = address.rpartition('/')[2]
            found.append(EncoderFile(f'dinov2-vit{letter}14{suffix}', file, address, None))
    return {one.file: one for one in found}


def encoder_path(source: str) -> Path:
    """The file of weights that a config's ``clip_checkpoint`` or ``checkpoint`` means.

    Args:
        source: A file, an address (see :func:`~mmetris.utils.downloads.weights_path`), or the name of a published file
            in whatever folder, which is looked for where ``mmetris download`` puts it, too; one that ships is found
            from any folder.

    Returns:
        A path; where nothing is found, that of ``source``.
    """
    path = weights_path(source)
    if scheme_of(source) is None and not path.is_file():
        root = None if path.is_absolute() else find_root(source)
        if root is not None and (root / source).is_file():
            return root / source
        known = encoder_files().get(path.name)
        if known is not None and not path.is_absolute() and known.place.is_file():
            return known.place
    return path


def how_to_get(source: str) -> str | None:
    """What to do about a file that is not here, in a sentence; None if it is no published one.

    Args:
        source: As a config names it.
    """
    known = encoder_files().get(Path(source).name)
    if known is None:
        return None
    return f'"mmetris download {known.name}" fetches it from {known.address}; without a network, put it at {source}'


def fetch_encoder(known: EncoderFile) -> Fetched:
    """Fetch a published file into its place, unless it is there.

    Args:
        known: Which one.

    Raises:
        NotFetchedError: If it cannot be fetched; the message says from where it comes and into which place it goes.
        ValueError: If what came is not it.
    """
    try:
        return fetch_address(known.address, known.place, known.sha256)
    except NotFetchedError as error:
        raise NotFetchedError(
            f'{error}. Without a network: fetch {known.address} elsewhere and put it at pretrained/{known.file}, '
            f'below the folder that you start from, or at {known.place}'
        ) from error
