"""Similarity of a story's pictures: the arithmetic against a brute force, and the node on a real host."""

import itertools
import math

import pytest
import torch
from storyreel.core.story.script import read_script
from storyreel.core.story.similarity import measure_story
from storyreel.core.story.styles import NO_STYLE, PLACE, Style

CHARACTERS = "[Bob] a man\n[Eve] a woman"
SCENES = "[Bob] at home\n[Bob] and [Eve] on the road\n[NC] a castle\n[Eve] sleeps\n[Bob] laughs"


def tell(characters: str = CHARACTERS, scenes: str = SCENES):
    return read_script(characters, scenes, NO_STYLE, "", {NO_STYLE: Style(NO_STYLE, PLACE)})[0]


def cosine(a, b) -> float:
    dot = sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return dot / math.sqrt(sum(x * x for x in a.tolist()) * sum(y * y for y in b.tolist()))


def test_similarity_is_the_mean_cosine_over_pairs_of_a_characters_frames():
    story = tell()
    pictures, prompts = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    similarity = measure_story(story, pictures, prompts)
    shown = {"Bob": (0, 1, 4), "Eve": (1, 3)}
    for name, frames in shown.items():
        pairs = [cosine(pictures[a], pictures[b]) for a, b in itertools.combinations(frames, 2)]
        assert similarity.characters[name] == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    partners = {0: (1, 4), 1: (0, 3, 4), 3: (1,), 4: (0, 1)}
    for frame, others in partners.items():
        expected = sum(cosine(pictures[frame], pictures[other]) for other in others) / len(others)
        assert similarity.frames[frame] == pytest.approx(expected, abs=1e-6)
    assert similarity.frames[2] is None  # [NC]
    assert similarity.prompts == pytest.approx(
        [cosine(*pair) for pair in zip(pictures, prompts, strict=True)], abs=1e-6
    )


def test_length_of_embeddings_does_not_matter():
    pictures = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    scaled = pictures * torch.tensor([1.0, 20, 0.1, 3, 7])[:, None]
    assert measure_story(tell(), scaled).frames[0] == pytest.approx(measure_story(tell(), pictures).frames[0], abs=1e-6)


def test_equal_pictures_are_wholly_alike():
    similarity = measure_story(tell(), torch.ones(5, 7))
    assert similarity.characters == pytest.approx({"Bob": 1.0, "Eve": 1.0})
    assert similarity.prompts is None


def test_other_numbers_of_frames_are_refused():
    with pytest.raises(ValueError, match="5 frames, and there are 4 pictures"):
        measure_story(tell(), torch.ones(4, 7))
