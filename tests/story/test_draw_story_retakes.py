"""Draw Story draws frames again: which are scored, what is kept, what is found on disk, what the report says."""

import json
import re
import shutil

import pytest
import torch
from harness import drawing
from harness.encoders import image_encoder
from harness.values import given

SCENES = [
    "[Pim] waving in a meadow",
    "[Pom] sitting on a beach",
    "[Pim] and [Pom] in a town",
    "[NC] a meadow",
    "[Pim] sitting in a forest",
    "[Pom] waving in a town",
]
AGAINST = {2: (0, 1), 4: (0,), 5: (1,)}  # frames that are scored, and the anchor frames of their characters, from 0
FOLDER = "story/frames/story"
VISION = {"clip_vision": ["world", 3]}
ALL = dict(VISION, retakes=3, retake_threshold=1.0)  # no score reaches it
TRY = re.compile(r"seed (\d+): (-?\d\.\d{3})( \(kept\))?")


@pytest.fixture(scope="module")
def best(host, tmp_path_factory):
    """(folder, IMAGE, report, the run) of the story with all retakes."""
    output = tmp_path_factory.mktemp("best")
    with drawing.output_folder(output):
        run = host.run(drawing.story(SCENES, **ALL))
    images, _, report = run.values["draw"]
    return output / FOLDER, images, report, run


@pytest.fixture
def draw(host, tmp_path, best):
    """draw(scenes, **inputs) -> (numbers of the images that were written, IMAGE, report, the run), in one folder.
    draw.best() puts the story with all retakes there."""
    with drawing.output_folder(tmp_path / "output") as output:

        def draw(scenes=SCENES, more=None, **inputs):
            name = inputs.get("name", "story")
            before = drawing.images(output, name)
            run = host.run(drawing.story(scenes, **inputs) | (more or {}))
            images, _, report = run.values["draw"]
            return drawing.new_images(before, drawing.images(output, name)), images, report, run

        def copy_best():
            shutil.copytree(best[0], draw.folder)
            return best[1:]

        draw.best, draw.folder = copy_best, output / FOLDER
        draw.index = lambda: json.loads((draw.folder / "frames.json").read_text())
        yield draw


def messages(run) -> list[str]:
    return list(run.outputs.get("draw", {}).get("text", ()))


def batches(run) -> list[str]:
    texts = [text.partition(", step")[0] for text in drawing.texts(run.events) if ", step" in text]
    return list(dict.fromkeys(texts))


def lines(report: str) -> list[str]:
    return [line.partition(". ")[2] for line in report.splitlines()[2:]]


def tries(line: str) -> list[tuple[int, float, bool]]:
    """(seed, score, whether it is kept) of each try in a line of the report."""
    found = [(int(seed), float(score), bool(kept)) for seed, score, kept in TRY.findall(line)]
    return found if len(found) != 1 else [(*found[0][:2], True)]


def measured(host, images: torch.Tensor, number: int) -> float:
    """What Measure Story says of a frame and the anchor frames of its characters."""
    numbers = sorted([number, *AGAINST[number]])
    graph = drawing.story([SCENES[frame] for frame in numbers])
    graph["measure"] = drawing.node(
        "StoryReelMeasureStory", images=["images", 0], story=["story", 0], encoder_folder="none", **VISION
    )
    graph["show"] = drawing.node("PreviewAny", source=["measure", 0])
    with given(host, images=images[numbers]) as values:
        report = host.run({**graph, **values}).values["measure"][0]
    return float(re.findall(r"\d+\. (-?[\d.]+)", report)[numbers.index(number)])


def test_the_best_try_is_kept(best):
    """Of each frame with a character but the anchor frames."""
    folder, images, report, run = best
    assert drawing.new_images({}, drawing.images(folder.parents[2])) == [1, 2, *[3] * 4, 4, *[5] * 4, *[6] * 4]
    assert messages(run) == []
    kept = {}
    for number, line in enumerate(lines(report)):
        found = tries(line)
        assert len(found) == (4 if number in AGAINST else 0)
        if number in AGAINST:
            (kept[number],) = (place for place, (*_, kept) in enumerate(found) if kept)
            assert found[kept[number]][1] == max(score for _, score, _ in found)
    assert any(kept.values()), "a first try is not the best one"


def test_a_try_is_what_its_seed_draws_and_a_score_what_measure_story_says(host, draw):
    images, report, _ = draw.best()
    for number, place in ((2, 0), (4, 1), (4, 2)):
        seed, score, kept = tries(lines(report)[number])[place]
        _, other, _, _ = draw(frames=f"{number + 1} {seed}", name="other")
        assert torch.equal(other[number], images[number]) == kept
        assert measured(host, other, number) == pytest.approx(score, abs=1.1e-3)


def test_an_encoder_that_gives_no_numbers_is_refused(host, draw):
    """And what is drawn stays."""
    encoder = image_encoder(16)
    torch.nn.init.constant_(encoder.model.visual_projection.weight, torch.nan)
    with given(host, vision=encoder) as values, pytest.raises(RuntimeError, match="NaN or infinity"):
        draw(more=values, **{**ALL, "clip_vision": ["vision", 0]})
    assert len(draw.index()["images"]) == 3
    assert draw(retakes=0)[0] == [4, 5, 6]


def test_a_threshold_ends_the_retakes(draw, best):
    scores = [score for _, score, _ in tries(lines(best[2])[4])]
    place = next(place for place, score in enumerate(scores) if score > scores[0])
    threshold = (scores[0] + scores[place]) / 2
    written, images, report, run = draw(SCENES[:2] + SCENES[4:5], **{**ALL, "retake_threshold": threshold})
    assert tries(lines(report)[2])[-1][2] and len(tries(lines(report)[2])) == 1 + place
    retakes = [f"frame 3 of 3, retake {number}" for number in range(1, place + 1)]
    assert written == [1, 2, *[3] * (1 + place)] and batches(run)[2:] == ["frame 3 of 3", *retakes]
    written, images, report, run = draw(name="low", **{**ALL, "retake_threshold": -1.0})
    assert written == [1, 2, 3, 4, 5, 6] and all(len(tries(lines(report)[number])) == 1 for number in AGAINST)


def test_without_retakes_nothing_changes(draw, best):
    """Files, index and images are those of a story without an encoder; and its finished frames are found with one."""
    _, images, report, run = draw()
    plain = {path.name: path.read_bytes() for path in draw.folder.iterdir()}
    assert "none was scored" in report and "scores" not in draw.index()
    written, same, again, run = draw(**VISION)
    assert written == [] and torch.equal(same, images) and again == report
    assert messages(run) == ["clip_vision has no effect, since retakes is 0."]
    assert {path.name: path.read_bytes() for path in draw.folder.iterdir()} == plain
    written, better, _, run = draw(**ALL)
    assert torch.equal(better, best[1])
    assert written == [*[3] * 3, *[5] * 3, *[6] * 3], "the first tries are on disk"
    assert "3 of 6 frames are on disk" in drawing.texts(run.events)
    written, back, _, _ = draw()
    assert written == [] and torch.equal(back, images)


def test_a_finished_story_is_not_scored_again(draw, monkeypatch):
    from storyreel.host.metrics import features

    images, report, _ = draw.best()
    monkeypatch.setattr(features, "embed_images", None)
    written, same, again, run = draw(**ALL)
    assert written == [] and torch.equal(same, images) and again == report
    assert drawing.texts(run.events) == ["6 of 6 frames are on disk"]
    one = draw(**{**ALL, "retakes": 1})[2]
    assert [tries(line)[:2] for line in lines(one)].count([]) == 3 and len(tries(lines(one)[4])) == 2


def test_more_retakes_draw_only_what_is_new(draw):
    _, _, first, _ = draw(**{**ALL, "retakes": 1})
    written, images, report, _ = draw(**ALL)
    assert written == [*[3] * 2, *[5] * 2, *[6] * 2]
    assert [t[:2] for t in tries(lines(report)[4])][:2] == [t[:2] for t in tries(lines(first)[4])]


def test_of_the_tries_only_the_kept_image_is_needed(draw):
    images, report, _ = draw.best()
    kept = {drawn["file"] for drawn in draw.index()["frames"].values()}
    for path in draw.folder.glob("*.png"):
        if path.name not in kept:
            path.unlink()
    written, same, _, _ = draw(**ALL)
    assert written == [] and torch.equal(same, images)
    (fifth,) = (name for name in kept if name.startswith("frame_005"))
    (draw.folder / fifth).unlink()
    written, same, again, run = draw(**ALL)
    assert written == [5] and torch.equal(same, images) and again == report


def test_scores_that_are_lost_are_computed_again(draw):
    """As after a kill between a try and its score."""
    images, report, _ = draw.best()
    index = draw.index()
    gone = sorted(index.pop("scores"))
    (draw.folder / "frames.json").write_text(json.dumps(index))
    written, same, again, run = draw(**ALL)
    assert written == [] and torch.equal(same, images) and again == report and drawing.sampled(run.events) == 0
    assert sorted(draw.index()["scores"]) == gone


def test_another_encoder_has_scores_of_its_own(host, draw):
    _, first, _ = draw.best()
    with given(host, tiny=image_encoder(16)) as values:
        written, _, report, _ = draw(more=values, **{**ALL, "clip_vision": ["tiny", 0]})
    assert written == [] and "clip of width 32, 2 layers" in report.splitlines()[0]
    assert [t[0] for t in tries(lines(report)[4])] == [t[0] for t in tries(lines(first)[4])]
    assert [t[1] for t in tries(lines(report)[4])] != [t[1] for t in tries(lines(first)[4])]


def test_frames_of_the_table_are_drawn_once(draw):
    """A seed is the user's own choice, and a lock keeps what is there."""
    first, report, _ = draw.best()
    scored = draw.index()["frames"]["5"]["seed"]
    written, images, report, _ = draw(frames="5 locked\n6 77", **{**ALL, "cfg": 3.0})
    assert lines(report)[4] == f"seed {scored} (locked)" and lines(report)[5] == "seed 77 (from the table)"
    assert torch.equal(images[4], first[4]) and written == [1, 2, *[3] * 4, 4, 6]


def test_an_image_is_the_same_whatever_is_drawn_with_it(draw):
    scenes, some = [*SCENES[:2], *SCENES[4:], "[Pim] waving in a town"], {**ALL, "retakes": 1}
    _, images, report, _ = draw(scenes, **some)
    _, other, again, run = draw(scenes, name="other", frames_at_once=2, **some)
    assert re.sub(r"0\.\d+", "", again) == re.sub(r"0\.\d+", "", report)
    assert (other - images).abs().max() <= 1 / 255 + 1e-6, "the same but for rounding to 8 bits"
    frames = ["frames 3 and 4 of 5", "frame 5 of 5"]
    assert batches(run)[2:] == [text for batch in frames for text in (batch, f"{batch}, retake 1")]


def test_a_frame_does_not_depend_on_other_frames(draw):
    images, _, _ = draw.best()
    _, fewer, _, _ = draw([*SCENES[:2], SCENES[5], "[Pim] reading in a room", SCENES[4]], name="fewer", **ALL)
    assert torch.equal(fewer[[0, 1, 2, 4]], images[[0, 1, 5, 4]])


def test_a_new_anchor_frame_starts_the_tries_of_its_frames_anew(draw):
    draw.best()
    written, _, _, run = draw(frames="1 999", **ALL)
    assert written == [1, *[3] * 4, *[5] * 4]
    assert messages(run) == ["frames 3 and 5 are drawn again because they show Pim, whose anchor frame 1 changed."]


def test_characters_of_a_bank_are_not_scored(host, draw):
    """One frame shows nobody else; another one is compared with the anchor frame of the other one."""
    bank = draw([SCENES[0], SCENES[4]], name="before")[3].values["draw"][1]
    scenes = [SCENES[4], SCENES[1], SCENES[2], SCENES[5]]
    with given(host, bank=bank) as values:
        written, _, report, run = draw(scenes, more=values, bank=["bank", 0], **ALL)
    assert written == [1, 2, *[3] * 4, *[4] * 4]
    assert messages(run) == ["frame 1 is never drawn again, since Pim has no anchor frames to compare with."]
    assert lines(report)[0].endswith("(Pim from the bank)") and lines(report)[2].endswith("against frame 2")


def test_only_regions_are_compared_where_there_are_some(host, draw):
    """Of characters that have one; others are compared as whole images."""
    from storyreel.host.metrics.features import embed_images
    from storyreel.host.storyworld import load_clip_vision

    mask, inside = torch.zeros(1, 32, 32), torch.zeros(1, 64, 64, 1)
    mask[:, :, 8:20], inside[:, :, 16:40] = 1, 1
    region = drawing.node("StoryReelCharacterRegion", model=["world", 0], character="Pim", mask=["mask", 0])
    with given(host, mask=mask) as values:
        settings = {**ALL, "retakes": 1, "model": ["region", 0]}
        _, images, report, _ = draw([*SCENES[:2], *SCENES[4:]], more={**values, "region": region}, **settings)
    vision = load_clip_vision()

    def cosine(numbers, inside) -> float:
        pair = [embed_images(vision, images[[number]] * inside + 0.5 * (1 - inside)) for number in numbers]
        return torch.cosine_similarity(*pair).item()

    for pair, is_masked in (((0, 2), True), ((1, 3), False)):
        (score,) = (score for _, score, kept in tries(lines(report)[pair[1]]) if kept)
        whole, part = cosine(pair, torch.ones_like(inside)), cosine(pair, inside)
        assert abs(whole - part) > 0.1
        assert score == pytest.approx(part if is_masked else whole, abs=0.03)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(retakes=2), "Draw Story: retakes is 2 and clip_vision is not connected; connect an image encoder"),
        (dict(VISION, retakes=17), "retakes"),
    ],
)
def test_wrong_inputs_are_refused(host, draw, changed, message):
    first = len(host.events)
    with pytest.raises((RuntimeError, ValueError), match=message):
        draw(**changed)
    assert drawing.sampled(host.events[first:]) == 0


def test_retakes_of_a_story_of_anchor_frames_have_no_effect(draw):
    written, _, report, run = draw(SCENES[:2], **ALL)
    assert written == [1, 2] and "none was scored" in report
    assert messages(run) == [
        "retakes has no effect: no frame shows a character and is neither an anchor frame nor in the table frames."
    ]
