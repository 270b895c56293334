"""Train a tiny CLIP on Shapes captions, on one CPU core, in about half an hour.

The objective is CLIP's symmetric contrastive loss with two additions. Each scene brings several captions and near
misses of them (one attribute, place or relation swapped), which are negatives for its picture. And since the truth of
every caption about every scene is known, only captions that are clearly *false* of a picture count as its negatives.
With ``--place-loss`` a linear layer must tell from a picture's feature where its lone object stands, which captions
alone had not taught in 1,400 steps.

    python tools/pretrain/train_tiny_clip.py --out work_dirs/tiny_clip_resnet

writes ``OUT.safetensors`` (the best so far), ``OUT.log.jsonl`` and, in the cache folder, a checkpoint for ``--resume``.
"""

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, normalize

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

from probes import Probes  # noqa: E402
from shapes_batches import FORMS, Batch, SceneBank, bank_batch, close_up_batch, used_tokens  # noqa: E402
from tiny_clip import (  # noqa: E402
    PatchChoice,
    UsedWords,
    add_waves,
    arch_config,
    build_clip,
    encode_image,
    encode_text,
    load_clip,
    normalise,
    save_clip,
)

_MAX_LOGIT_SCALE = math.log(100)  # CLIP's own limit


def contrastive_loss(images: Tensor, texts: Tensor, owner: Tensor, false: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE in which only statements known to be false are negatives.

    Args:
        images: (S, D) unit features.
        texts: (C, D) unit features: P captions true of their own scene, then as many near misses of each, in order.
        owner: (P,) scene of each of the first P captions.
        false: (C, S) bool, which caption is false of which scene.
        scale: Factor on the cosine.
    """
    logits = scale * texts @ images.T
    each = torch.arange(len(owner))
    positive = logits[each, owner]
    target = torch.zeros_like(owner)
    barred = float('-inf')
    # Each true caption against all that are false of its picture ...
    to_text = logits.masked_fill(~false, barred).T[owner]
    # ... and against all pictures it is false of.
    to_image = logits[: len(owner)].masked_fill(~false[: len(owner)], barred)
    loss = sum(cross_entropy(torch.cat([positive[:, None], others], 1), target) for others in (to_text, to_image)) / 2
    if len(texts) > len(owner):
        # The near misses once more by themselves: among hundreds of easy negatives they would hardly be heard.
        misses = to_text[:, len(owner) :].unflatten(1, (len(owner), -1))[each, each]
        loss = loss + cross_entropy(torch.cat([positive[:, None], misses], 1), target)
    return loss


def place_loss(layer: nn.Linear, images: Tensor, centres: Tensor) -> Tensor:
    """Mean squared error of where lone objects stand.

    Args:
        layer: Reads x and y off a picture's feature.
        images: (S, D) unit features.
        centres: (S, 2) as a :class:`~shapes_batches.Batch` has them.
    """
    lone = ~centres.isnan().any(1)
    if not lone.any():
        return images.new_zeros(())
    return mse_loss(layer(images[lone] * images.shape[1] ** 0.5), centres[lone])


class Schedule:
    """Everything that changes with the progress p of the training, 0..1."""

    def __init__(self, lr: float, warmup: float, keep: int, lone: float = 0.12) -> None:
        self._lr, self._warmup, self._keep, self._lone = lr, warmup, keep, lone

    def lr(self, p: float) -> float:
        """Linear warm-up, then half a cosine to 1 percent."""
        if p < self._warmup:
            return self._lr * max(p / self._warmup, 0.01)
        return self._lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (p - self._warmup) / (1 - self._warmup))))

    def keep(self, p: float) -> int | None:
        """Patches of a picture that are looked at: fewer while it shows few objects, all of them towards the end."""
        return self._keep * 2 // 3 if p < 0.2 else self._keep if p < 0.85 else None

    def num_objects(self, p: float) -> list[float]:
        """Chances of scenes with 1 to 5 objects: mostly lone ones at first, mostly crowded ones in the end."""
        ramp = min(p / 0.3, 1.0)
        early, late = np.array([0.8, 0.2, 0.0, 0.0, 0.0]), np.array([self._lone] + 4 * [(1 - self._lone) / 4])
        return list((1 - ramp) * early + ramp * late)


class Trainer:
    """Model, optimiser and where they stand."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.args = args
        self.config = arch_config(args.arch)
        self.model = build_clip(self.config)
        if args.init is not None:
            self.model.load_state_dict(self._exported(args.init, '--init', self.config).state_dict())
        self.teacher = None
        if args.teacher is not None:
            # Its text encoder's words are told apart already, and features to imitate teach more than captions do.
            wanted = {key: self.config[key] for key in ('embed_dim', 'text_cfg')}
            self.teacher = self._exported(args.teacher, '--teacher', wanted).requires_grad_(False)
            texts = {key: value for key, value in self.teacher.state_dict().items() if not key.startswith('visual.')}
            self.model.load_state_dict(texts, strict=False)
        self.place = nn.Linear(self.config['embed_dim'], 2) if args.place_loss else None
        if args.place_loss and args.arch == 'resnet':
            add_waves(self.model.visual.attnpool.positional_embedding)
        self.model.token_embedding = UsedWords(self.model.token_embedding, used_tokens())
        self.patches = PatchChoice()
        if args.arch == 'vit':
            self.model.visual.patch_dropout = self.patches
        parameters = [*self.model.parameters(), *(self.place.parameters() if self.place else ())]
        decayed = [p for p in parameters if p.ndim >= 2]
        others = [p for p in parameters if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [dict(params=decayed, weight_decay=args.weight_decay), dict(params=others, weight_decay=0.0)],
            lr=args.lr,
            betas=(0.9, 0.98),
            eps=1e-6,
        )
        self.schedule = Schedule(args.lr, args.warmup, args.keep, args.lone)
        self.step, self.samples, self.seconds, self.best = 0, 0, 0.0, -1.0

    @staticmethod
    def _exported(path: str, flag: str, wanted: dict) -> CLIP:
        """An exported CLIP in eval mode.

        Raises:
            ValueError: If its architecture is not as wanted.
        """
        clip, notes = load_clip(path)
        held = json.loads(notes['arch'])
        for key, value in wanted.items():
            if held[key] != value:
                raise ValueError(f'{flag} {path} has {key} {held[key]}, but {value} is trained')
        return clip

    @property
    def progress(self) -> float:
        """Part of the budget used up, steps or minutes, whichever is further."""
        return max(self.step / self.args.steps, self.seconds / (60 * self.args.minutes))

    def train_step(self, batch: Batch) -> float:
        """One optimiser step; returns the loss."""
        if self.args.arch == 'vit':
            self.patches.keep = self.schedule.keep(self.progress)
            self.patches.look_at(batch.pictures, self.config['vision_cfg']['patch_size'])
        for group in self.optimizer.param_groups:
            group['lr'] = self.schedule.lr(self.progress)
        pictures = normalise(batch.pictures)
        images = normalize(encode_image(self.model, pictures), dim=-1)
        texts = normalize(encode_text(self.model, batch.tokens), dim=-1)
        loss = contrastive_loss(images, texts, batch.owner, batch.false, self.model.logit_scale.exp())
        if self.teacher:
            with torch.no_grad():
                wanted = normalize(encode_image(self.teacher, pictures), dim=-1)
            loss = loss + self.args.teacher_loss * (1 - (images * wanted).sum(-1)).mean()
        if self.place:
            loss = loss + self.args.place_loss * place_loss(self.place, images, batch.centres)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, _MAX_LOGIT_SCALE)
        self.step += 1
        self.samples += len(batch.pictures)
        return float(loss.detach())

    def save(self, path: Path) -> None:
        """Write a checkpoint; a reader never sees half of one."""
        state = dict(
            model=self.model.state_dict(),
            place=self.place.state_dict() if self.place else None,
            optimizer=self.optimizer.state_dict(),
            arch=self.args.arch,
            step=self.step,
            samples=self.samples,
            seconds=self.seconds,
            best=self.best,
            rng=torch.get_rng_state(),
        )
        partial = path.with_name(path.name + '.partial')
        torch.save(state, partial)
        os.replace(partial, path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is one of another architecture.
        """
        if not path.is_file():
            raise FileNotFoundError(f'no checkpoint {path} to resume from: leave out --resume to start anew')
        state = torch.load(path, weights_only=True)
        if state['arch'] != self.args.arch:
            held = state['arch']
            raise ValueError(f'{path} holds arch {held!r}, not {self.args.arch!r}: give --arch {held}')
        if (state['place'] is None) != (self.place is None):
            raise ValueError(f'{path} was trained {"without" if self.place else "with"} --place-loss: go on likewise')
        self.model.load_state_dict(state['model'])
        if self.place:
            self.place.load_state_dict(state['place'])
        self.optimizer.load_state_dict(state['optimizer'])
        for name in ('step', 'samples', 'seconds', 'best'):
            setattr(self, name, state[name])
        torch.set_rng_state(state['rng'])


class Log:
    """JSON lines to a file and to the terminal."""

    def __init__(self, path: Path, fresh: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, 'w' if fresh else 'a', encoding='utf-8', buffering=1)

    def write(self, **record: object) -> None:
        """Write one record, floats at four digits."""
        line = json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in record.items()})
        self._file.write(line + '\n')
        print(line, flush=True)


def probe(trainer: Trainer, probes: Probes, log: Log, export: Path) -> None:
    """Measure the model and export it if it is the best so far (mean of all probes)."""
    result = probes.run(trainer.model)
    mean = float(np.mean(list(result.values())))
    log.write(kind='probe', step=trainer.step, minutes=trainer.seconds / 60, mean=mean, **result)
    if mean > trainer.best:
        trainer.best = mean
        save_clip(
            export,
            trainer.model,
            trainer.config,
            trained_on='Shapes captions (mmetris), rendered on the fly',
            samples_seen=trainer.samples,
            steps=trainer.step,
            probes=json.dumps({k: round(v, 4) for k, v in result.items()}),
        )


def train(args: argparse.Namespace) -> Trainer:
    """Run the whole training."""
    torch.set_num_threads(args.threads)
    trainer = Trainer(args)
    out, cache = Path(args.out), Path(args.cache)
    export, log_path = out.with_name(out.name + '.safetensors'), out.with_name(out.name + '.log.jsonl')
    bank = SceneBank(cache, args.seed, args.bank)
    checkpoint = cache / f'{out.name}.ckpt.pth'
    if args.resume:
        trainer.load(checkpoint)
    log = Log(log_path, fresh=not args.resume)
    log.write(kind='start', step=trainer.step, **{k: v for k, v in vars(args).items() if k not in ('out', 'cache')})
    probes = Probes(args.seed, args.probe_scenes)
    trainer.model.train()
    losses, clock = [], time.monotonic()
    since = dict(log=(clock, trainer.samples), probe=clock)
    while trainer.progress < 1:
        rng = np.random.default_rng([args.seed, 200, trainer.step])
        if trainer.progress < args.close_ups:
            # A close-up costs a quarter of a picture, and its one caption says everything.
            batch = close_up_batch(bank, rng, 2 * args.batch_size, num_captions=1, num_misses=1)
        else:
            batch = bank_batch(
                bank,
                rng,
                args.batch_size,
                trainer.schedule.num_objects(trainer.progress),
                num_captions=args.captions,
                num_misses=args.misses,
                forms=args.forms,
            )
        losses.append(trainer.train_step(batch))
        now = time.monotonic()
        trainer.seconds, clock = trainer.seconds + now - clock, now
        if now - since['log'][0] >= args.log_seconds or trainer.progress >= 1:
            then, samples = since['log']
            log.write(
                kind='train',
                step=trainer.step,
                minutes=trainer.seconds / 60,
                loss=float(np.mean(losses)),
                lr=trainer.schedule.lr(trainer.progress),
                scale=float(trainer.model.logit_scale.detach().exp()),
                samples_per_s=(trainer.samples - samples) / (now - then),
            )
            losses, since['log'] = [], (now, trainer.samples)
        if now - since['probe'] >= args.probe_seconds or trainer.progress >= 1:
            since['probe'] = now
            probe(trainer, probes, log, export)
            trainer.save(checkpoint)
    return trainer


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--arch', default='resnet', help='resnet or vit')
    parser.add_argument('--init', metavar='FILE', help='exported CLIP to start from; default: random weights')
    parser.add_argument(
        '--teacher',
        metavar='FILE',
        help='exported CLIP whose text encoder is the start of the own and whose picture features are imitated',
    )
    parser.add_argument('--teacher-loss', type=float, default=8.0, help='weight of one less the cosine to its features')
    parser.add_argument('--out', default='work_dirs/tiny_clip', help='path of the results, without suffix')
    parser.add_argument('--cache', default='work_dirs/tiny_clip_cache', help='folder for pictures and the checkpoint')
    parser.add_argument('--resume', action='store_true', help='continue from the checkpoint in the cache folder')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--steps', type=int, default=100000, help='most steps')
    parser.add_argument(
        '--minutes',
        type=float,
        default=34.0,
        help='most minutes of training; the schedule is '
        'stretched over the steps or the minutes, whichever is used up first',
    )
    parser.add_argument('--batch-size', type=int, default=64, help='scenes per step')
    parser.add_argument('--captions', type=int, default=2, help='true captions per scene')
    parser.add_argument('--misses', type=int, default=2, help='near misses per caption')
    parser.add_argument(
        '--forms',
        type=float,
        nargs=5,
        default=FORMS,
        metavar='CHANCE',
        help='chances of captions of one object, of one at its place, of two in a relation, of two, of all',
    )
    parser.add_argument(
        '--place-loss',
        type=float,
        default=0.0,
        help="weight of telling where a lone object stands; adds waves to the positions of a ResNet's attention pool",
    )
    parser.add_argument('--lone', type=float, default=0.12, help='share of scenes with one object in the end')
    parser.add_argument(
        '--close-ups',
        type=float,
        help='part of the training that comes first, on close-ups of lone '
        'objects with full captions; default 0.3 for a ResNet, 0 for a ViT, whose size is fixed',
    )
    parser.add_argument('--bank', type=int, default=20000, help='different scenes (38 kB of the cache each)')
    parser.add_argument('--lr', type=float, default=2e-3)
    parser.add_argument('--warmup', type=float, default=0.03, help='part of the training')
    parser.add_argument('--weight-decay', type=float, default=0.05)
    parser.add_argument('--keep', type=int, default=32, help='patches of 64 the ViT sees for most of the training')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--log-seconds', type=float, default=20.0)
    parser.add_argument('--probe-seconds', type=float, default=150.0)
    parser.add_argument('--probe-scenes', type=int, default=256)
    args = parser.parse_args(argv)
    for name in ('steps', 'minutes', 'batch_size', 'captions', 'bank', 'probe_scenes'):
        if getattr(args, name) <= 0:
            raise ValueError(f'--{name.replace("_", "-")} is {getattr(args, name)}: it must be positive')
    if min(args.forms) < 0 or not any(args.forms):
        raise ValueError(f'--forms {args.forms}: chances are not negative, and not all zero')
    for name in ('place_loss', 'teacher_loss'):
        if getattr(args, name) < 0:
            raise ValueError(f'--{name.replace("_", "-")} is {getattr(args, name)}: it must not be negative')
    if not 0 <= args.lone <= 1:
        raise ValueError(f'--lone is {args.lone}: it must lie within 0..1')
    if args.close_ups is None:
        args.close_ups = 0.3 if args.arch == 'resnet' else 0.0
    if not 0 <= args.close_ups <= 1 or (args.close_ups and args.arch == 'vit'):
        raise ValueError(f'--close-ups is {args.close_ups}: it must lie within 0..1, and be 0 for a ViT')
    return args


if __name__ == '__main__':
    train(parse_args())
