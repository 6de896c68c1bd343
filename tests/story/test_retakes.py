"""Which try of a frame is kept, their seeds, and how a frame is scored."""

import pytest
import torch
from storyreel.core.metrics.similarity import character_similarity, mean_cosine
from storyreel.core.story.frame_table import retake_seed
from storyreel.core.story.retakes import FrameReport, in_words, next_try
from storyreel.core.story.story import Character, Frame, Story


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([None, None], (0, False)),
        ([0.2, None], (1, False)),
        ([0.5, None], (0, True)),
        ([0.2, 0.6, None], (1, True)),
        ([0.2, 0.6, 0.9], (1, True)),
        ([0.2, 0.4, 0.3], (1, True)),
        ([-0.2, -0.1, -0.3], (1, True)),
        ([0.3, 0.3], (0, True)),
        ([0.1], (0, True)),
    ],
)
def test_tries_end_at_the_threshold_or_with_the_best(scores, expected):
    assert next_try(scores, 0.5) == expected


def test_a_retake_has_a_seed_of_its_own():
    seeds = [seed for own in (0, 1, 2**64 - 1) for seed in (own, *(retake_seed(own, n) for n in range(1, 17)))]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**64 for seed in seeds)
    assert retake_seed(7, 1) == retake_seed(7, 1)


def test_a_frame_is_scored_as_in_a_story_of_it_and_the_anchor_frames():
    frames = tuple(Frame(line, "", "", ("Ann",), "") for line in (1, 2, 3))
    story = Story((Character("Ann", ""),), frames, "", "")
    images = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    expected = character_similarity(story, images).frames[0]
    assert mean_cosine(images[:1].expand(2, -1), images[1:]) == pytest.approx(expected)


def test_the_report_has_a_line_for_each_frame():
    frames = [
        FrameReport([5], note="anchor frame of Ann"),
        FrameReport([7, 8, 9], [0.25, 0.75], 1, (0,)),
        FrameReport([3, 4], [0.9], 0, (0, 2)),
        FrameReport([6]),
    ]
    assert in_words("Scores", frames).splitlines() == [
        "Scores",
        "",
        "  1. seed 5 (anchor frame of Ann)",
        "  2. seed 7: 0.250, seed 8: 0.750 (kept); against frame 1",
        "  3. seed 3: 0.900; against frames 1 and 3",
        "  4. seed 6",
    ]
