"""What a tiny CLIP knows, measured on scenes it was never trained on. Every figure is an accuracy, 0..1."""

from collections.abc import Sequence

import numpy as np
import torch
from open_clip.model import CLIP
from shapes_batches import HELD_OUT_STREAM, centre, picture, scene_at, tokenize
from tiny_clip import encode_text, normalise
from torch import Tensor
from torch.nn.functional import normalize

from mmetris.datasets.shapes import captions as cap
from mmetris.datasets.shapes.logic import DIRECTIONS, FALSE, TRUE, Description, place_truth
from mmetris.datasets.shapes.scene import COLOURS, SHAPES, SIZES, TEXTURES, Scene

_CORNERS = {
    'top left': 'at the top left',
    'top right': 'at the top right',
    'bottom left': 'at the bottom left',
    'bottom right': 'at the bottom right',
}
_PROMPTS = {  # attribute -> text of each of its values
    'colour': {value: f'a {value} object' for value in COLOURS},
    'shape': {value: f'a {value}' for value in SHAPES},
    'size': {value: f'a {value} object' for value in SIZES},
    'texture': {value: f'a {value} object' for value in TEXTURES},
}


class Probes:
    """A fixed set of held-out questions.

    Args:
        seed: Seed of the held-out scenes.
        num_scenes: Scenes for each of the three parts: one object, two objects, three to five objects.
    """

    def __init__(self, seed: int, num_scenes: int = 256) -> None:
        self.seed = seed
        rng = np.random.default_rng([seed, HELD_OUT_STREAM])

        def draw(start: int, fewest: int, most: int) -> list[Scene]:
            return [
                scene_at(seed, HELD_OUT_STREAM, start + i, int(rng.integers(fewest, most + 1)))
                for i in range(num_scenes)
            ]

        self.single, self.pairs, self.crowds = draw(0, 1, 1), draw(num_scenes, 2, 2), draw(2 * num_scenes, 3, 5)
        self.pictures = [[picture(scene) for scene in scenes] for scenes in (self.single, self.pairs, self.crowds)]

        # One true caption for each crowd, and a near miss of it that is false.
        self.captions = [cap.sample_caption(scene, rng) for scene in self.crowds]
        self.truth = cap.truth_table(self.captions, self.crowds)
        self.misses: list[cap.Caption] = []
        for scene, caption in zip(self.crowds, self.captions):
            miss = cap.near_miss(caption, rng)
            while cap.truth_table([miss], [scene])[0, 0] != FALSE:
                miss = cap.near_miss(caption, rng)
            self.misses.append(miss)

        # "A left of B" and "B left of A" for each pair of unlike objects that lies clearly to one side.
        self.swaps: list[tuple] = []
        for index, scene in enumerate(self.pairs):
            first, second = (Description(colour=obj.colour, shape=obj.shape) for obj in scene.objects)
            for relation in DIRECTIONS:
                forward = cap.Clause(first, relation=relation, reference=second)
                backward = cap.Clause(second, relation=relation, reference=first)
                claims = [cap.Caption(cap.word_clause(rng, clause), (clause,)) for clause in (forward, backward)]
                if [int(value) for value in cap.truth_table(claims, [scene])[:, 0]] == [TRUE, FALSE]:
                    self.swaps.append((index, claims[0].text, claims[1].text))

    @torch.no_grad()
    def run(self, model: CLIP) -> dict[str, float]:
        """Measure a model; it is put in eval mode for the time being."""
        training = model.training
        model.eval()
        single, pairs, crowds = (self._embed_images(model, pictures) for pictures in self.pictures)
        result = {}
        for name, prompts in _PROMPTS.items():
            guess = (single @ self._embed_texts(model, list(prompts.values())).T).argmax(1)
            right = [getattr(scene.objects[0], name) for scene in self.single]
            result[name] = float(np.mean([list(prompts)[g] == r for g, r in zip(guess.tolist(), right)]))
        result['place'] = self._place(model, single)
        texts = self._embed_texts(model, [caption.text for caption in self.captions])
        best = (crowds @ texts.T).argmax(1).numpy()
        result['retrieval'] = float((self.truth[best, np.arange(len(best))] == TRUE).mean())
        misses = self._embed_texts(model, [caption.text for caption in self.misses])
        result['near_miss'] = float(((crowds * texts).sum(1) > (crowds * misses).sum(1)).float().mean())
        owners = [index for index, _, _ in self.swaps]
        forward, backward = (self._embed_texts(model, [swap[i] for swap in self.swaps]) for i in (1, 2))
        won = (pairs[owners] * forward).sum(1) > (pairs[owners] * backward).sum(1)
        result['relation'] = float(won.float().mean())
        model.train(training)
        return result

    def _place(self, model: CLIP, single: Tensor) -> float:
        """Which corner a lone object is in, where that is clear."""
        texts = self._embed_texts(model, [f'an object {words}' for words in _CORNERS.values()])
        guess = (single @ texts.T).argmax(1).tolist()
        corners = [[place_truth(scene, corner)[0] == TRUE for corner in _CORNERS] for scene in self.single]
        return float(np.mean([held[g] for held, g in zip(corners, guess) if any(held)]))

    @torch.no_grad()
    def read_place(self, model: CLIP, num_scenes: int = 600) -> tuple[float, float]:
        """How well a linear layer reads where a lone object stands off a picture's feature.

        Args:
            model: The model, in eval mode.
            num_scenes: Scenes, of which two thirds fit the layer and the rest judge it.

        Returns:
            R2 of x and of y: 1 for a feature that tells them exactly, 0 or less for one that tells nothing.
        """
        scenes = [scene_at(self.seed, HELD_OUT_STREAM, 50_000 + index, 1) for index in range(num_scenes)]
        features = self._embed_images(model, [picture(scene) for scene in scenes]).double()
        features = torch.cat([features, torch.ones_like(features[:, :1])], 1)
        places = torch.tensor([centre(scene) for scene in scenes], dtype=torch.float64)
        fitted = 2 * num_scenes // 3
        layer = torch.linalg.lstsq(features[:fitted], places[:fitted]).solution
        held_out = places[fitted:]
        error = (features[fitted:] @ layer - held_out).square().mean(0)
        x, y = (1 - error / held_out.var(0, correction=0)).tolist()
        return x, y

    @staticmethod
    def _embed_images(model: CLIP, pictures: Sequence[np.ndarray]) -> Tensor:
        chunks = [pictures[i : i + 64] for i in range(0, len(pictures), 64)]
        return torch.cat([normalize(model.encode_image(normalise(np.stack(chunk))), dim=-1) for chunk in chunks])

    @staticmethod
    def _embed_texts(model: CLIP, texts: Sequence[str]) -> Tensor:
        return normalize(encode_text(model, tokenize(texts)), dim=-1)
