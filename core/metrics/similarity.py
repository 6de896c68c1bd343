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
class StoryScore:
    """The results of one metric of a story.

    column: what the values of the frames are. frames: one a frame, None where there is no value. characters: a value
    for each character, None if the metric has none of them. mean: over the frames, if it says something.
    """

    column: str
    frames: tuple[float | None, ...]
    characters: dict[str, float] | None = None
    mean: float | None = None


def character_similarity(story: Story, images: Tensor) -> StoryScore:
    """For each character who is in two frames or more, the mean cosine over pairs of those frames. For each frame, the
    mean over its pairs with frames that share a character. images: [F, d], one row a frame.

    Raises ValueError for another number of rows than the story has frames.
    """
    check_one_each(story, images, "images")
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
    return StoryScore("likeness to the frames of the same characters", frames, characters)


def mean_cosine(images: Tensor, others: Tensor) -> float:
    """The mean cosine over pairs of rows. images, others: [N, d].

    Of an image and each of those that show its characters, this is the image's value in `character_similarity`.
    """
    return F.cosine_similarity(images.float(), others.float(), dim=-1).mean().item()


def text_similarity(story: Story, images: Tensor, prompts: Tensor) -> StoryScore:
    """For each frame, the cosine of its image to its prompt. images, prompts: [F, d].

    Raises ValueError for another number of rows than the story has frames.
    """
    check_one_each(story, images, "images")
    check_one_each(story, prompts, "prompts")
    images, texts = F.normalize(images.float(), dim=-1), F.normalize(prompts.float(), dim=-1)
    frames = tuple((images * texts).sum(-1).tolist())
    return StoryScore("likeness to its prompt", frames, mean=sum(frames) / len(frames))


def check_one_each(story: Story, rows: Tensor, name: str) -> None:
    """Raise ValueError unless there are as many rows as frames."""
    if len(rows) != len(story.frames):
        raise ValueError(f"the story has {len(story.frames)} frames, and there are {len(rows)} {name}.")
