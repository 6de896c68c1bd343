"""How alike the images of a story are, from embeddings of images and prompts.

StoryDiffusion, arXiv 2405.01434, section 4.2: character similarity is the CLIP score between images of a character,
text-image similarity the CLIP score between a prompt and its image. Here both are plain cosines, nobody cut out.
"""

from dataclasses import dataclass
from itertools import combinations

import torch.nn.functional as F
from torch import Tensor

from ..story.story import Story


@dataclass(frozen=True)
class Similarity:
    """Cosines. characters: for each character who is in two frames or more, the mean over pairs of those frames.
    frames: for each frame, the mean over its pairs with frames that share a character; None where there are none.
    prompts: for each frame, the cosine to its prompt; None without text embeddings.
    """

    characters: dict[str, float]
    frames: tuple[float | None, ...]
    prompts: tuple[float, ...] | None


def measure_story(story: Story, images: Tensor, prompts: Tensor | None = None) -> Similarity:
    """Measure one story. images: [F, d], one row a frame; prompts: [F, d] in the same space.

    Raises ValueError for another number of rows than the story has frames.
    """
    for name, rows in (("images", images), ("prompts", prompts)):
        if rows is not None and len(rows) != len(story.frames):
            raise ValueError(f"the story has {len(story.frames)} frames, and there are {len(rows)} {name}.")
    images = F.normalize(images.float(), dim=-1)
    cosines = images @ images.T
    shown = {
        character.name: [i for i, frame in enumerate(story.frames) if character.name in frame.characters]
        for character in story.characters
    }
    characters, partners = {}, [set() for _ in story.frames]
    for name, frames in shown.items():
        pairs = list(combinations(frames, 2))
        if pairs:
            characters[name] = sum(cosines[pair].item() for pair in pairs) / len(pairs)
        for a, b in pairs:
            partners[a].add(b)
            partners[b].add(a)
    frames = tuple(
        sum(cosines[i, j].item() for j in others) / len(others) if others else None for i, others in enumerate(partners)
    )
    if prompts is None:
        return Similarity(characters, frames, None)
    texts = F.normalize(prompts.float(), dim=-1)
    return Similarity(characters, frames, tuple((images * texts).sum(-1).tolist()))
