"""Draw Story with characters: anchors first, recorded on disk, read by all other frames of theirs and by no more."""

import gc

import pytest
import torch
from harness import drawing
from harness.drawing import node
from harness.values import given

SCENES = [
    "[Pim] waving in a meadow",
    "[Pom] sitting on a beach",
    "[Pim] and [Pom] in a town",
    "[NC] a meadow",
    "[Pim] sitting in a forest",
    "[Pom] waving in a town",
]
PIM, POM = (2, 4), (2, 5)  # the frames that read them, from 0


@pytest.fixture
def draw(host, tmp_path):
    """draw(scenes, **inputs) -> (numbers of the images that were written, IMAGE, the run), in one output folder."""
    with drawing.output_folder(tmp_path / "output") as output:

        def draw(scenes=SCENES, more=None, **inputs):
            name = inputs.get("name", "story")
            before = drawing.images(output, name)
            run = host.run(drawing.story(scenes, **inputs) | (more or {}))
            return drawing.new_images(before, drawing.images(output, name)), run.values["draw"][0], run

        draw.output = output
        yield draw


def messages(run) -> list[str]:
    return list(run.outputs.get("draw", {}).get("text", ()))


def batches(run) -> list[str]:
    """The batches that were sampled, in their order."""
    texts = [text.partition(", step")[0] for text in drawing.texts(run.events) if ", step" in text]
    return list(dict.fromkeys(texts))


def differing(first: torch.Tensor, second: torch.Tensor) -> list[int]:
    return [number for number, pair in enumerate(zip(first, second, strict=True)) if not torch.equal(*pair)]


def test_anchors_come_first_and_nothing_is_drawn_twice(draw):
    written, images, run = draw()
    assert written == [1, 2, 3, 4, 5, 6]
    assert batches(run) == [f"frame {number} of 6" for number in (1, 2, 3, 4, 5, 6)]
    assert len(list(draw.output.glob("story/frames/story/bank_*.safetensors"))) == 2
    again, same, run = draw()
    assert again == [] and torch.equal(same, images) and drawing.texts(run.events) == ["6 of 6 frames are on disk"]
    alone = draw(name="alone", strength=0.0)
    assert differing(images, alone[1]) == [2, 4, 5] and "strength is 0" in messages(alone[2])[0]


def test_characters_with_a_common_anchor_frame_are_drawn_together(draw):
    scenes = ["[Pim] and [Pom] in a town", "[NC] rain", "[Pim] and [Pom] on a beach", "[Pim] and [Pom] in a forest"]
    written, _, run = draw(scenes, anchors=2)
    assert written == [1, 2, 3, 4] and batches(run) == ["frames 1 and 3 of 4", "frame 2 of 4", "frame 4 of 4"]
    assert len(list(draw.output.glob("story/frames/story/bank_*.safetensors"))) == 1


def test_a_new_seed_of_a_frame_draws_it_alone(draw):
    _, images, _ = draw()
    written, again, run = draw(frames="5 999")
    assert written == [5] and differing(images, again) == [4] and messages(run) == []


def test_a_new_anchor_draws_exactly_the_frames_that_read_it(draw):
    """And the node names them."""
    _, images, _ = draw()
    written, again, run = draw(frames="1 999")
    assert written == [1, 3, 5] and differing(images, again) == [0, *PIM]
    assert batches(run) == ["frame 1 of 6", "frame 3 of 6", "frame 5 of 6"]
    assert messages(run) == ["frames 3 and 5 are drawn again because they show Pim, whose anchor frame 1 changed."]
    scenes = [SCENES[0], "[Pom] standing on a beach", *SCENES[2:]]
    written, third, run = draw(scenes, frames="1 999\n5 locked")
    assert written == [2, 3, 6] and differing(again, third) == [1, *POM]
    assert messages(run) == ["frames 3 and 6 are drawn again because they show Pom, whose anchor frame 2 changed."]
    written, back, run = draw()
    assert written == [] and torch.equal(back, images) and messages(run) == []


def test_the_message_leaves_out_what_changes_by_itself(draw):
    draw()
    scenes = [*SCENES[:4], "[Pim] standing in a forest", SCENES[5]]
    written, _, run = draw(scenes, frames="1 999")
    assert written == [1, 3, 5]
    assert messages(run) == ["frame 3 is drawn again because it shows Pim, whose anchor frame 1 changed."]
    assert messages(draw(scenes, frames="1 999", seed=4)[2]) == []


def test_a_frame_does_not_depend_on_other_frames(draw):
    """Another list of frames that are no anchors, and another number of them at once."""
    _, images, _ = draw()
    written, fewer, _ = draw([*SCENES[:2], SCENES[5], "[Pim] sitting in a forest", SCENES[4]], name="fewer")
    assert len(written) == 5
    assert torch.equal(fewer[[0, 1, 2, 3]], images[[0, 1, 5, 4]]) and not torch.equal(fewer[3], fewer[4])


@pytest.mark.parametrize("conditioning", [False, True])
def test_an_image_is_the_same_whatever_is_drawn_with_it(draw, monkeypatch, conditioning):
    """Before it becomes 8 bits a color, within 1e-5."""
    from storyreel.host.story import drawn_frames

    decoded, plain = [], drawn_frames.decode

    def decode(vae, samples):
        decoded.extend(vae.decode(samples))
        return plain(vae, samples)

    monkeypatch.setattr(drawn_frames, "decode", decode)
    scenes, results = [*SCENES, "[Pim] waving in a town", "[Pom] in a meadow"], []
    for count in (1, 2, 3):
        _, _, run = draw(scenes, name=str(count), frames_at_once=count, conditioning=conditioning, seed=8)
        results.append((batches(run), torch.stack(decoded)))
        decoded.clear()
    assert results[2][0] == [
        "frame 1 of 8", "frame 2 of 8", "frame 3 of 8", "frame 4 of 8", "frames 5-7 of 8", "frame 8 of 8"
    ]  # fmt: skip
    for _, other in results[1:]:
        assert (other - results[0][1]).abs().max() < 1e-5


def test_a_locked_anchor_keeps_its_image_and_is_read_as_its_prompt_says(draw):
    _, images, _ = draw()
    scenes = ["[Pim] waving on a hill", *SCENES[1:]]
    plain = draw(scenes, name="plain")[1]
    written, locked, _ = draw(scenes, frames="1 locked")
    assert written == [1, 3, 5] and torch.equal(locked[0], images[0]) and differing(locked, plain) == [0]
    assert draw(scenes, frames="1 locked")[0] == []


def test_a_lost_bank_is_recorded_again_with_the_same_result(draw):
    _, images, _ = draw()
    for path in draw.output.glob("story/frames/story/bank_*.safetensors"):
        path.unlink()
    before = {path: path.read_bytes() for path in draw.output.rglob("*.png")}
    _, again, run = draw()
    assert torch.equal(again, images) and batches(run) == ["frame 1 of 6", "frame 2 of 6"]
    assert {path: path.read_bytes() for path in draw.output.rglob("*.png")} == before


def test_a_bank_goes_on_into_another_story(host, draw):
    """Its characters need no anchors there; a new one has its own; and frames follow what the bank holds."""
    _, images, run = draw()
    bank = run.values["draw"][1]
    assert bank.characters == {"Pim", "Pom"} and len(bank.images) == 2 and bank.bytes
    scenes = ["[Pim] sitting in a forest", "[Pum] waving in a town", "[Pum] and [Pim] on a beach", "[NC] a meadow"]
    characters = f"{drawing.CHARACTERS}\n[Pum] a green hero"
    with given(host, bank=bank) as values:
        _, more, run = draw(scenes, more=values, name="next", characters=characters, bank=["bank", 0])
        assert batches(run) == ["frame 2 of 4", "frame 1 of 4", "frame 3 of 4", "frame 4 of 4"]
        assert torch.equal(more[0], images[4]), "the frame reads what it read in its story"
        assert run.values["draw"][1].characters == {"Pim", "Pom", "Pum"}
        again = draw(scenes, more=values, name="next", characters=characters, bank=["bank", 0])
        assert again[0] == [] and torch.equal(again[1], more)
    other = draw(seed=4, name="other")[2].values["draw"][1]
    with given(host, bank=other) as values:
        written, changed, _ = draw(scenes, more=values, name="next", characters=characters, bank=["bank", 0])
    assert written == [1, 3] and differing(more, changed) == [0, 2]


def recorded(seed: int) -> dict:
    """Nodes that record Pim in a KSampler, of which the bank of "record" holds nothing before it has run."""
    script = dict(characters=drawing.CHARACTERS, scenes="[Pim] waving in a meadow", style="(No style)", negative="")
    settings = dict(steps=3, cfg=2.0, sampler_name="euler", scheduler="normal", denoise=1.0, seed=seed)
    sharing = {"preset": "low-vram", "strength": 1.0, "seed": 0, "model": ["world", 0], "story": ["before", 0]}
    bank = dict(precision="fp16", device="cpu", max_gb=1.0, step_stride=1)
    links = dict(model=["record", 0], positive=["words", 0], negative=["words", 1], latent_image=["empty", 0])
    return {
        "before": node("StoryReelScript", **script),
        "words": node("StoryReelEncodeStory", clip=["world", 1], story=["before", 0]),
        "empty": node("StoryReelStoryLatent", story=["before", 0], width=64, height=64, noise="different"),
        "share": node("StoryReelConsistentAttention", **sharing),
        "record": node("StoryReelRecordCharacters", model=["share", 0], **bank),
        "sample": node("KSampler", **links, **settings),
        "watch": node("PreviewAny", source=["sample", 0]),
    }


def test_a_bank_that_is_recorded_in_the_same_graph(draw):
    """It is read once its sampler has run, and frames are found on disk as with any other bank."""
    scenes = ["[Pim] sitting in a town", "[Pom] waving in a town"]
    written, images, run = draw(scenes, more=recorded(5), bank=["record", 1])
    assert written == [1, 2] and batches(run) == ["frame 2 of 2", "frame 1 of 2"]
    written, same, run = draw(scenes, more=recorded(5), bank=["record", 1])
    assert written == [] and torch.equal(same, images) and drawing.texts(run.events)[-1] == "2 of 2 frames are on disk"
    written, other, _ = draw(scenes, more=recorded(6), bank=["record", 1])
    assert written == [1] and differing(images, other) == [0]


def test_an_unchanged_graph_runs_again_only_for_a_bank_that_is_gone(host, draw):
    """As the host's queue runs it, with its cache."""

    def run():
        return host.run(drawing.story(SCENES), cached=True)

    first = run().values["draw"]
    assert drawing.sampled(run().events) == 0 and drawing.texts(run().events) == []
    path = next(iter(draw.output.glob("story/frames/story/bank_*.safetensors")))
    path.unlink()
    again = run()
    assert drawing.sampled(again.events) == 1 and torch.equal(again.values["draw"][0], first[0]) and path.is_file()


def test_recordings_are_in_memory_while_they_are_read_and_no_longer(host, draw, monkeypatch):
    from storyreel.core.attention.bank import Recording
    from storyreel.host.story import drawn_frames

    held, plain = [], drawn_frames.decode

    def recordings() -> int:
        gc.collect()
        return sum(isinstance(entry, Recording) and bool(entry.tokens) for entry in gc.get_objects())

    def decode(vae, samples):
        held.append(recordings())
        return plain(vae, samples)

    monkeypatch.setattr(drawn_frames, "decode", decode)
    before = recordings()
    _, _, run = draw([*SCENES, "[Pom] waving on a beach"], name="memory")
    assert [count - before for count in held] == [1, 1, 0, 0, 0, 1, 0], "the next frame reads it, too"
    assert recordings() == before
    assert run.values["draw"][1].bytes and recordings() == before + 2


def test_frames_of_one_step_share_in_it(draw):
    """As models of one step (turbo) need."""
    _, images, _ = draw(steps=1)
    _, alone, _ = draw(name="alone", steps=1, strength=0.0)
    assert differing(images, alone) == [2, 4, 5]


def test_characters_are_found_in_each_frame(draw):
    """Find Characters on the MODEL changes the frame that reads others, and another prompt draws one frame alone."""
    finder = node("StoryReelFindCharacters", model=["world", 0], clip=["world", 1], dropout=0.0, start_percent=0.0)
    scenes = ["[Pim] in a meadow", "[Pom] on a beach", "[Pim] and [Pom] in a town", "[NC] at night"]
    inputs = dict(steps=3, width=128, height=128, more={"find": finder})
    written, found, _ = draw(scenes, model=["find", 0], **inputs)
    assert written == [1, 2, 3, 4]
    _, whole, _ = draw(scenes, name="whole", **inputs)
    assert [torch.equal(*pair) for pair in zip(found, whole, strict=True)] == [True, True, False, True]
    written, again, _ = draw([*scenes[:2], "[Pim] and [Pom] in a room", scenes[3]], model=["find", 0], **inputs)
    assert written == [3] and torch.equal(again[[0, 1, 3]], found[[0, 1, 3]])
