"""Storyworld: the same pictures everywhere, a truth that the pixels bear out, captions that are scripts, and chance
that favors nothing."""

import hashlib
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
from storyreel.core.story.script import read_script
from storyreel.core.story.styles import NO_STYLE, PLACE, Style
from storyreel.core.storyworld import attributes as words
from storyreel.core.storyworld.attributes import Picture, attributes
from storyreel.core.storyworld.captions import (
    CHARACTER,
    caption,
    choose_named,
    describe_character,
    describe_scene,
    read,
    script,
    unknown_words,
    vocabulary,
)
from storyreel.core.storyworld.motion import place_at
from storyreel.core.storyworld.world import render_clip, render_picture, sample_clip, sample_picture, sample_story

ROOT = Path(__file__).resolve().parents[2]
STYLES = {NO_STYLE: Style(NO_STYLE, PLACE)}


def alone(seed: int = 0, **changes) -> Picture:
    """A picture of one hero who stands in the middle and looks ahead, except for `changes` of the figure."""
    picture = sample_picture(seed, 0, twins=0, triplets=0)
    usual = {"action": "standing", "facing": "ahead", "x": 0.5, "size": "big", "height": 0.66, "ground": 0.9}
    return replace(picture, figures=(replace(picture.figures[0], **(usual | changes)),))


def doing(action: str, seed: int = 0, index: int = 0):
    clip = sample_clip(seed, index)
    return replace(clip, figures=(replace(clip.figures[0], action=action),), pan="")


def digest() -> str:
    arrays = [render_picture(sample_picture(5, index)) for index in range(4)] + [render_clip(sample_clip(5, 1), 4)]
    parts = [array.tobytes() for drawn in arrays for array in (drawn.image, drawn.masks, drawn.heads, drawn.feet)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


class TestDeterminism:
    def test_another_process_draws_the_same(self, tmp_path):
        code = f"""
import importlib.util, sys
root = {str(ROOT)!r}
spec = importlib.util.spec_from_file_location("storyreel", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["storyreel"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["storyreel"])
spec = importlib.util.spec_from_file_location("worlds", {str(Path(__file__).resolve())!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.digest())
"""
        run = [sys.executable, "-c", code]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == digest()

    def test_order_and_other_draws_do_not_matter(self):
        forwards = [sample_picture(1, index) for index in range(5)]
        Random().random(), np.random.default_rng().random()
        assert [sample_picture(1, index) for index in reversed(range(5))] == forwards[::-1]
        assert len({*forwards, *(sample_picture(2, index) for index in range(5))}) == 10

    def test_single_heroes_are_the_same_without_twins(self):
        mixed = [sample_picture(0, index) for index in range(200)]
        single = [sample_picture(0, index, twins=0, triplets=0) for index in range(200)]
        assert all(len(picture.figures) == 1 for picture in single)
        assert all(a == b for a, b in zip(mixed, single, strict=True) if len(a.figures) == 1)
        assert all((a.look, a.scene) == (b.look, b.scene) for a, b in zip(mixed, single, strict=True))

    def test_a_long_clip_continues_a_short_one(self):
        clip = sample_clip(0, 3)
        long = render_clip(clip, 40, size=64)
        assert long.image.shape == (40, 64, 64, 3) and long.masks.shape == (40, 1, 64, 64)
        assert np.array_equal(render_clip(clip, 16, size=64).image, long.image[:16])
        assert np.array_equal(render_clip(clip, 16, size=64, first=24).masks, long.masks[24:])


class TestTruth:
    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("shape", words.SHAPES),
            ("color", words.COLORS),
            ("hat", words.HATS),
            ("hat_color", words.COLORS),
            ("scarf_color", words.COLORS),
        ],
    )
    @pytest.mark.parametrize("action", ["standing", "walking left", "sitting"])
    def test_every_look_shows_in_the_hero_alone(self, name, values, action):
        base = alone(action=action, facing="left")
        drawn = [render_picture(base.with_look(**{name: value})) for value in values]
        for a, b in combinations(drawn, 2):
            differs = (a.image != b.image).any(-1)
            covered = (a.masks[0] > 0) | (b.masks[0] > 0)
            far = np.abs(a.image.astype(int) - b.image).max(-1) > 40
            assert far.sum() > 60, "many pixels differ between the two"
            assert not (differs & ~covered).any(), "and by nothing outside the hero"
            if "color" in name:
                assert np.array_equal(a.masks, b.masks)

    def test_colors_repeat_at_boots_and_mittens(self):
        """A color that is unnamed can be read at two places."""
        base = alone()
        feet = render_picture(base).feet[0]
        for name, rows in (
            ("hat_color", slice(round(feet[1] * 128) - 7, None)),
            ("scarf_color", slice(90, 105)),
        ):
            a, b = (render_picture(base.with_look(**{name: color})).image[rows] for color in ("red", "blue"))
            assert (a != b).any(-1).sum() > 20

    @pytest.mark.parametrize("scene", words.SCENES)
    def test_every_scene_is_its_own_and_leaves_the_hero_alone(self, scene):
        base = replace(alone(), scene=scene)
        other = replace(base, scene="room" if scene != "room" else "night")
        a, b = render_picture(base), render_picture(other)
        assert np.array_equal(a.masks, b.masks)
        inside = a.masks[0] == 255
        assert np.array_equal(a.image[inside], b.image[inside])
        assert (a.image != b.image).any(-1)[a.masks[0] == 0].mean() > 0.95
        again = replace(base, scenery=base.scenery + 1)
        assert (render_picture(again).image != a.image).any(), "what a scene leaves free varies"

    def test_every_action_size_and_facing_shows(self):
        actions = [render_picture(alone(action=action, hand=1)) for action in words.PICTURE_ACTIONS]
        facings = [render_picture(alone(facing=facing)) for facing in words.FACINGS]
        sizes = [render_picture(alone(size=size, height=height)) for size, height in words.SIZES.items()]
        for drawn in (actions, facings, sizes):
            for a, b in combinations(drawn, 2):
                assert (np.abs(a.image.astype(int) - b.image).max(-1) > 40).sum() > 100

    def test_masks_are_what_is_visible(self):
        for index in range(30):
            picture = sample_picture(9, index, twins=0.4, triplets=0.4)
            drawn = render_picture(picture)
            assert drawn.masks.shape == (len(picture.figures), 128, 128)
            total = drawn.masks.astype(int).sum(0)
            assert total.max() <= 258, "no pixel belongs to two heroes, but for rounding"
            recolored = picture.with_look(color="red" if picture.look.color != "red" else "blue")
            changed = (render_picture(recolored).image != drawn.image).any(-1)
            assert not (changed & (total == 0)).any()
            for mask, head, feet in zip(drawn.masks, drawn.heads, drawn.feet, strict=True):
                assert mask.astype(float).sum() / 255 > 500, "a hero is large enough to be visible"
                column, row = np.clip((head * 128).astype(int), 0, 127)
                assert drawn.masks[:, row, column].max() == 255
                assert head[1] < feet[1]

    def test_nearer_heroes_stand_before_farther_ones(self):
        picture = sample_picture(0, 0, twins=1, triplets=0)
        pair = [
            replace(figure, x=x, action="standing") for figure, x in zip(picture.figures, (0.45, 0.55), strict=True)
        ]
        sums = []
        for grounds in ((0.85, 0.93), (0.93, 0.85)):
            figures = tuple(replace(figure, ground=ground) for figure, ground in zip(pair, grounds, strict=True))
            sums.append(render_picture(replace(picture, figures=figures)).masks.astype(float).sum((1, 2)))
        assert sums[0][0] < sums[1][0] and sums[0][1] > sums[1][1]

    def test_other_sizes_show_the_same(self):
        picture = sample_picture(0, 1)
        small, large = render_picture(picture), render_picture(picture, 256)
        assert np.array_equal(small.heads, large.heads)
        halved = large.image.reshape(128, 2, 128, 2, 3).mean((1, 3))
        assert np.abs(halved - small.image).mean() < 4


class TestCaptions:
    def samples(self, count: int = 400):
        for index in range(count):
            for picture in (sample_picture(3, index), sample_clip(3, index, twins=0.3, triplets=0.1)):
                yield picture, choose_named(Random(index), picture)

    def test_captions_hold_exactly_the_named_true_values(self):
        for picture, named in self.samples():
            truth = {name: value for name, value in attributes(picture).items() if name in named | {"number"}}
            assert read(caption(picture, named)) == truth

    def test_a_caption_is_a_line_of_a_valid_script(self):
        for picture, named in self.samples(100):
            story, remarks = read_script(*script([picture], named), NO_STYLE, "", STYLES)
            assert story.prompts == (caption(picture, named),)
            assert story.characters[0].description == describe_character(picture, named)
            assert not remarks

    def test_a_story_keeps_its_hero(self):
        for index in range(20):
            pictures = sample_story(0, index, frames=5)
            named = choose_named(Random(index), pictures[0])
            story, _ = read_script(*script(pictures, named), NO_STYLE, "", STYLES)
            assert len({picture.look for picture in pictures}) == 1
            assert story.prompts == tuple(caption(picture, named) for picture in pictures)
            assert len(story.characters) == 1

    def test_the_grammar_in_full(self):
        picture = alone(action="waving", hand=1, size="small")
        picture = replace(picture.with_look(shape="round", color="orange", hat="top", hat_color="red"), scene="beach")
        picture = picture.with_look(scarf_color="green")
        everything = frozenset(attributes(picture))
        assert (
            describe_character(picture, everything) == "a small round orange hero with a red top hat and a green scarf"
        )
        assert describe_scene(picture, everything) == "waving on a beach, looking ahead, in the middle"
        assert caption(picture, {"color"}) == "an orange hero"
        twins = replace(picture, figures=(picture.figures[0], replace(picture.figures[0], action="reading")))
        assert caption(twins, everything) == (
            "round orange twins with red top hats and green scarves one waving and one reading on a beach"
        )

    def test_the_words_are_closed(self):
        known = vocabulary()
        assert list(known) == sorted(set(known)) and len(known) < 100
        used = {word for picture, named in self.samples() for word in caption(picture, named).replace(",", "").split()}
        assert used <= set(known)
        assert set(known) - used == set(), "no word that captions never use"

    def test_words_from_outside_are_listed_once_and_in_order(self):
        prompt = "A (blue:1.2) dragon, waving at the Hero's dragon on a beach; don't panic"
        assert unknown_words(prompt) == ("dragon", "hero's", "don't", "panic")
        assert unknown_words("") == ()

    def test_a_free_prompt_is_read_as_far_as_it_goes(self):
        assert read("comic of a big hero, red pointed hat, walking right IN A TOWN by noon") == {
            "size": "big",
            "number": "hero",
            "hat": "pointed",
            "hat color": "red",
            "action": "walking right",
            "scene": "town",
        }


def fits_uniform(counts: Counter, values) -> bool:
    """Chi-square below the 1 in 10,000 point of its distribution (Wilson and Hilferty's approximation)."""
    expected, freedom = counts.total() / len(values), len(values) - 1
    statistic = sum((counts[value] - expected) ** 2 / expected for value in values)
    return statistic < freedom * (1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom)) ** 0.5) ** 3


class TestBalance:
    PICTURES = 4000

    def test_every_value_is_equally_frequent(self):
        pictures = [sample_picture(0, index) for index in range(self.PICTURES)]
        looks = [picture.look for picture in pictures]
        for name, values in (("shape", words.SHAPES), ("hat", words.HATS)):
            assert fits_uniform(Counter(getattr(look, name) for look in looks), values)
        for name in ("color", "hat_color", "scarf_color"):
            assert fits_uniform(Counter(getattr(look, name) for look in looks), words.COLORS)
        pairs = [(a, b) for a in words.COLORS for b in words.COLORS]
        assert fits_uniform(Counter((look.color, look.hat_color) for look in looks), pairs)
        assert fits_uniform(Counter((look.hat_color, look.scarf_color) for look in looks), pairs)
        assert fits_uniform(Counter(picture.scene for picture in pictures), words.SCENES)
        single = [picture.figures[0] for picture in pictures if len(picture.figures) == 1]
        done_at = [(action, place) for action in words.PICTURE_ACTIONS for place in words.PLACES]
        assert fits_uniform(Counter((figure.action, figure.place) for figure in single), done_at)
        shares = Counter(len(picture.figures) for picture in pictures)
        assert abs(shares[2] / self.PICTURES - 0.3) < 0.03 and abs(shares[3] / self.PICTURES - 0.05) < 0.015

    def test_captions_leave_any_number_of_attributes_free(self):
        pictures = [sample_picture(0, index, twins=0, triplets=0) for index in range(self.PICTURES)]
        named = [choose_named(Random(index), picture) for index, picture in enumerate(pictures)]
        sizes = range(len(CHARACTER) + 1)
        assert fits_uniform(Counter(len(chosen & set(CHARACTER)) for chosen in named), sizes)
        assert fits_uniform(Counter(name for chosen in named for name in chosen & set(CHARACTER)), CHARACTER)
        assert sum("scene" in chosen for chosen in named) / self.PICTURES == pytest.approx(0.9, abs=0.02)

    def test_the_beginning_of_a_clip_is_independent_of_its_action(self):
        clips = [sample_clip(0, index) for index in range(self.PICTURES)]
        x = np.array([clip.figures[0].x for clip in clips])
        way = np.array([clip.figures[0].action.split()[-1] for clip in clips])
        left, right = x[way == "left"], x[way == "right"]
        assert abs(left.mean() - right.mean()) < 4 * x.std() * (1 / len(left) + 1 / len(right)) ** 0.5
        for kinds in (words.GENTLE_ACTIONS, words.WIDE_ACTIONS):
            chosen = [clip for clip in clips if clip.figures[0].action in kinds]
            starts = [(action, start) for action in kinds for start in words.STARTS]
            assert fits_uniform(Counter((clip.figures[0].action, clip.starts[0]) for clip in chosen), starts)
            facings = [(action, facing) for action in kinds for facing in words.FACINGS]
            assert fits_uniform(Counter((c.figures[0].action, c.figures[0].facing) for c in chosen), facings)


class TestMotion:
    @pytest.mark.parametrize("index", range(3))
    def test_frame_0_is_independent_of_the_action(self, index):
        """The first image is the same for every action of the hero and every pan."""
        first = render_clip(doing("standing", index=index), 1).image
        for action in words.CLIP_ACTIONS:
            assert np.array_equal(render_clip(doing(action, index=index), 1).image, first)
        for pan in words.PANS:
            assert np.array_equal(render_clip(replace(doing("standing", index=index), pan=pan), 1).image, first)

    def test_within_16_frames_every_two_actions_part(self):
        drawn = [render_clip(doing(action), 16).image for action in words.CLIP_ACTIONS]
        drawn += [render_clip(replace(doing("standing"), pan=pan), 16).image for pan in words.PANS]
        for a, b in combinations(drawn, 2):
            assert (np.abs(a[8:].astype(int) - b[8:]).max(-1) > 40).sum() > 100

    @pytest.mark.parametrize("action", words.CLIP_ACTIONS)
    def test_a_straight_line_between_two_frames_is_not_the_answer(self, action):
        drawn = render_clip(doing(action, index=2), 17)
        first, middle, last = (drawn.image[frame].astype(float) for frame in (0, 8, 16))
        moved = drawn.masks[[0, 8, 16]].max((0, 1)) > 0
        assert np.abs((first + last) / 2 - middle)[moved].mean() > 8

    @pytest.mark.parametrize("action", words.CLIP_ACTIONS)
    def test_motion_is_smooth_and_goes_on(self, action):
        for index in range(4):
            clip = doing(action, index=index)
            drawn = render_clip(clip, 40, size=64)
            steps = np.linalg.norm(np.diff(drawn.heads[:, 0], axis=0), axis=1)
            assert steps.max() < 0.17, "a hero never jumps from one place to another"
            later = drawn.image[24:].astype(float)
            assert all(np.abs(a - b).mean() > 0.01 for a, b in zip(later[:-4], later[4:], strict=True))

    def test_left_goes_left_and_right_goes_right(self):
        for index in range(10):
            for kind, least in (("walking", 0.1), ("leaping", 0.07), ("stepping", 0.03)):
                for way, sign in (("left", -1), ("right", 1)):
                    clip = doing(f"{kind} {way}", index=index)
                    path = [place_at(clip, 0, time)[1] for time in range(40)]
                    assert sign * (path[14] - path[0]) > least
                    assert 0.15 < min(path) and max(path) < 0.85
            for way, sign in (("left", -1), ("right", 1)):
                yaw = [place_at(doing(f"turning {way}", index=index), 0, time)[0].yaw for time in (0, 12)]
                assert sign * yaw[1] > 0.8

    def test_a_pan_moves_the_scene_and_the_hero_with_it(self):
        still = render_clip(doing("standing"), 16)
        for pan, sign in (("left", 1), ("right", -1)):
            moved = render_clip(replace(doing("standing"), pan=pan), 16)
            shift = (moved.heads - still.heads)[:, 0, 0] * sign
            assert all(a < b for a, b in pairwise(shift[:12])) and 0.1 < shift[15] < 0.25

    def test_twins_move_too(self):
        clip = next(c for c in (sample_clip(0, index, twins=1.0) for index in range(9)) if len(c.figures) == 2)
        drawn = render_clip(clip, 3)
        assert drawn.masks.shape == (3, 2, 128, 128) and drawn.masks.reshape(3, 2, -1).max(-1).min() == 255
