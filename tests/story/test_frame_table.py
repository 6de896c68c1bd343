"""The table of seeds and locks, the frames' own seeds, and which anchor frames are drawn together."""

import pytest
from storyreel.core.attention.anchor_groups import AnchorGroup, anchor_groups
from storyreel.core.attention.sharing import find_anchors
from storyreel.core.story.frame_table import FrameEntry, occurrences, read_table, seed_of
from storyreel.core.text import joined, numbered


def test_a_table_gives_frames_seeds_and_locks():
    table = "# all of them\n7 123456\n\n  9 42 locked # as it is\n3 Locked\n1 18446744073709551615\n2 0"
    assert read_table(table, 9) == {
        6: FrameEntry(123456),
        8: FrameEntry(42, True),
        2: FrameEntry(None, True),
        0: FrameEntry(2**64 - 1),
        1: FrameEntry(0),
    }
    assert read_table("", 3) == read_table("# nothing\n \n", 3) == {}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("1 5\n41 7", "frames, line 2: frame 41 does not exist; the story has frames 1 to 40."),
        ("0 7", "frames, line 1: frame 0 does not exist"),
        ("7 5\n# again\n7 locked", "frames, line 3: frame 7 is in line 1 already"),
        ("seven 5", "frames, line 1: seven is no number of a frame"),
        ("-1 5", "frames, line 1: -1 is no number of a frame"),
        ("٣ 5", "is no number of a frame"),
        ("9" * 5000 + " 5", "is no number of a frame"),
        ("7", "frames, line 1: after the frame 7, a seed, the word locked or both are expected."),
        ("7 5 6", "after the frame 7, a seed"),
        ("7 locked 5", "after the frame 7, a seed"),
        ("7 unlocked", "frames, line 1: unlocked is no seed; a number from 0 to 18446744073709551615 or locked"),
        ("7 -5", "-5 is no seed"),
        ("7 1.5", "1.5 is no seed"),
        ("7 18446744073709551616", "is no seed"),
        ("7 locked locked", "locked is no seed"),
    ],
)
def test_a_wrong_line_is_refused_with_its_number(table, message):
    with pytest.raises(ValueError) as error:
        read_table(table, 40)
    assert message in str(error.value) and len(str(error.value)) < 200


def test_a_frames_seed_follows_its_prompt():
    """Whatever other prompts come and go; equal prompts have different seeds."""

    def seeds(prompts):
        return {
            (prompt, number): seed_of(5, prompt, number)
            for prompt, number in zip(prompts, occurrences(prompts), strict=True)
        }

    few, more = seeds(["a", "b", "a"]), seeds(["x", "a", "y", "b", "a", "b"])
    assert occurrences(["a", "b", "a", "a"]) == [0, 0, 1, 2]
    assert few.items() <= more.items() and len(set(more.values())) == len(more) == 6
    assert all(0 <= seed < 2**64 for seed in more.values())
    assert seed_of(6, "a", 0) != seed_of(5, "a", 0)


def cast(*frames: str) -> list[frozenset[str]]:
    return [frozenset(frame.split()) for frame in frames]


def test_characters_with_a_common_anchor_frame_are_one_group():
    apart = cast("A", "B", "A B", "", "A", "B", "A", "C B")
    assert anchor_groups(apart, set(), 2) == [
        AnchorGroup(frozenset("A"), (0, 4)),
        AnchorGroup(frozenset("BC"), (1, 5, 7)),
    ]
    assert anchor_groups(apart, {"B"}, 2) == [
        AnchorGroup(frozenset("A"), (0, 4)),
        AnchorGroup(frozenset("C"), (7,)),
    ]
    assert anchor_groups(apart, set("ABC"), 2) == []
    assert anchor_groups(cast("A B", "B C", "C D"), set(), 1) == [AnchorGroup(frozenset("ABCD"), (0, 1, 2))]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_group_alone_has_the_anchors_that_the_story_has(count):
    story = cast("A B", "B", "C", "A C", "", "B D", "D E", "E", "A B C", "B", "E", "D E", "A")
    for group in anchor_groups(story, set(), count):
        alone = find_anchors([story[number] for number in group.frames], count)
        assert alone.keys() == group.characters
        for name, frames in alone.items():
            assert [group.frames[frame] for frame in frames] == find_anchors(story, count)[name]


def test_numbers_in_a_sentence():
    assert numbered("frame", [3]) == "frame 3" and numbered("frame", [3, 5]) == "frames 3 and 5"
    assert numbered("frame", [3, 4]) == "frames 3 and 4"
    assert numbered("frame", [1, 2, 3, 5, 7, 8, 9, 12]) == "frames 1-3, 5, 7-9 and 12"
    assert joined(["Bob", "Mia", "Pip"], "or") == "Bob, Mia or Pip"
