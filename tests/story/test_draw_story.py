"""Draw Story on the real host: what a frame depends on, what is drawn again, what stays, and what is refused."""

import json

import pytest
import torch
from harness import drawing
from harness.drawing import node
from harness.values import given
from storyreel.core.video.files import to_bytes, to_images

SCENES = ["[NC] a meadow", "[NC] a beach", "[NC] a town", "[NC] a snow field"]


@pytest.fixture
def draw(host, tmp_path):
    """draw(scenes, **inputs) -> (numbers of the images that were written, IMAGE, the run), in one output folder."""
    with drawing.output_folder(tmp_path / "output") as output:

        def draw(scenes=SCENES, **inputs):
            name = inputs.get("name", "story")
            before = drawing.images(output, name)
            run = host.run(drawing.story(scenes, **inputs))
            return drawing.new_images(before, drawing.images(output, name)), run.values["draw"][0], run

        draw.output = output
        draw.index = lambda name="story": json.loads((output / "story/frames" / name / "frames.json").read_text())
        yield draw


@pytest.fixture
def refused(host, tmp_path):
    """refused(**inputs) -> the message; fails if anything was sampled."""
    with drawing.output_folder(tmp_path / "output"):

        def refused(scenes=SCENES, values=None, **inputs) -> str:
            first = len(host.events)
            with given(host, **(values or {})) as linked, pytest.raises(RuntimeError) as error:
                host.run(drawing.story(scenes, **inputs) | linked)
            assert drawing.sampled(host.events[first:]) == 0
            return str(error.value)

        yield refused


def messages(run) -> list[str]:
    return list(run.outputs.get("draw", {}).get("text", ()))


def test_a_frame_is_what_the_hosts_own_nodes_draw(host, draw):
    """Of its prompt and its seed, alone, as 8 bits a color."""
    written, images, run = draw(SCENES[:2], frames="2 77", cfg=3.0)
    assert written == [1, 2] and images.shape == (2, 64, 64, 3)
    stock = {
        "world": node("StoryReelLoadStoryworld", precision="auto"),
        "text": node("CLIPTextEncode", clip=["world", 1], text="a beach"),
        "none": node("CLIPTextEncode", clip=["world", 1], text=""),
        "empty": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "images": node("VAEDecode", samples=["sampled", 0], vae=["world", 2]),
        "show": node("PreviewImage", images=["images", 0]),
    }
    settings = dict(seed=77, steps=drawing.STEPS, cfg=3.0, sampler_name="euler", scheduler="normal", denoise=1.0)
    links = dict(model=["world", 0], positive=["text", 0], negative=["none", 0], latent_image=["empty", 0])
    stock["sampled"] = node("KSampler", **settings, **links)
    (expected,) = host.run(stock).values["images"]
    assert torch.equal(images[1:], to_images(to_bytes(expected)))


def test_finished_frames_come_from_disk(draw):
    written, images, run = draw()
    steps = [f"frame {n} of 4, step {step} of {drawing.STEPS}" for n in (1, 2, 3, 4) for step in (1, 2)]
    assert written == [1, 2, 3, 4] and drawing.texts(run.events) == steps
    assert len({frame.numpy().tobytes() for frame in images}) == 4
    again, same, run = draw()
    assert again == [] and torch.equal(same, images) and drawing.texts(run.events) == ["4 of 4 frames are on disk"]
    (third,) = draw.output.glob("story/frames/story/frame_003_*.png")
    third.unlink()
    again, same, run = draw()
    assert again == [3] and torch.equal(same, images)
    assert drawing.texts(run.events) == ["3 of 4 frames are on disk", *steps[4:6]]
    (draw.output / "story/frames/story/frames.json").write_text('{"images": [')
    again, same, run = draw()
    assert again == [1, 2, 3, 4] and torch.equal(same, images)
    assert "frames.json is not readable, so all frames are drawn again" in messages(run)[0]


def test_another_name_is_another_folder(draw):
    _, images, _ = draw(SCENES[:2])
    _, same, run = draw(SCENES[:2], name="other/part one")
    assert torch.equal(same, images) and len(drawing.texts(run.events)) == 4
    assert len(drawing.images(draw.output, "other/part one")) == 2


def test_an_inserted_frame_draws_itself_alone(draw):
    """The others are found under their old names; so after a line is gone, and after lines have changed places."""
    _, images, _ = draw()
    longer = [SCENES[0], "[NC] a forest", *SCENES[1:]]
    written, more, _ = draw(longer)
    assert written == [2] and torch.equal(more[[0, 2, 3, 4]], images)
    written, fewer, _ = draw([SCENES[3], SCENES[1], SCENES[0]])
    assert written == [] and torch.equal(fewer, images[[3, 1, 0]])
    written, captioned, _ = draw([f"{scene} #Another caption" for scene in SCENES], frames_at_once=3)
    assert written == [] and torch.equal(captioned, images)


def test_frames_with_equal_prompts_differ_unless_their_seeds_are_equal(draw):
    written, images, _ = draw(["[NC] a beach"] * 3)
    assert written == [1, 2, 3] and len({frame.numpy().tobytes() for frame in images}) == 3
    written, images, _ = draw(["[NC] a beach"] * 3, frames="1 5\n3 5")
    assert written == [1] and torch.equal(images[0], images[2]) and not torch.equal(images[0], images[1])


def test_a_line_of_the_table_draws_one_frame_of_forty(draw):
    """And its line gone, the first image is there again."""
    scenes = [f"[NC] a {number} town" for number in range(40)]
    size = dict(width=64, height=64, steps=1, cfg=1.0)
    written, images, _ = draw(scenes, **size)
    assert len(written) == 40
    before = drawing.images(draw.output)
    written, again, run = draw(scenes, frames="7 999", **size)
    others = [number for number in range(40) if number != 6]
    assert written == [7] and torch.equal(again[others], images[others]) and not torch.equal(again[6], images[6])
    assert drawing.texts(run.events) == ["39 of 40 frames are on disk", "frame 7 of 40, step 1 of 1"]
    assert before.items() <= drawing.images(draw.output).items()
    assert draw.index()["frames"]["7"]["seed"] == 999
    written, first, _ = draw(scenes, **size)
    assert written == [] and torch.equal(first, images)


def test_a_locked_frame_stays_whatever_changes(draw):
    _, images, _ = draw()
    changed = [*SCENES[:1], "[NC] a quite different beach", *SCENES[2:]]
    written, again, _ = draw(changed, frames="2 locked", seed=4, cfg=4.0)
    assert written == [1, 3, 4] and torch.equal(again[1], images[1])
    assert not any(torch.equal(again[number], images[number]) for number in (0, 2, 3))
    _, third, _ = draw(changed, frames="2 locked\n3 8 locked", seed=5)
    assert torch.equal(third[1], images[1]) and torch.equal(third[2], again[2])
    _, rolled, _ = draw(SCENES, frames="3 8")
    assert not torch.equal(rolled[2], images[2])
    _, kept, _ = draw(SCENES, frames="3 locked")
    assert torch.equal(kept[2], rolled[2]), "the last image"


def test_a_locked_frame_that_moves_keeps_its_image(draw):
    _, images, _ = draw()
    longer = ["[NC] a forest", *SCENES]
    written, again, _ = draw(longer, frames="3 locked", seed=9)
    assert len(written) == 4 and torch.equal(again[2], images[1])
    _, again, _ = draw(SCENES, frames="2 locked", seed=10)
    assert torch.equal(again[1], images[1])


@pytest.mark.parametrize("conditioning", [False, True])
def test_an_image_is_the_same_whatever_is_drawn_with_it(host, draw, monkeypatch, conditioning):
    """Before it becomes 8 bits a color, within 1e-5; with another list of frames, too."""
    from storyreel.host.story import drawn_frames

    decoded = []
    plain = drawn_frames.decode

    def decode(vae, samples):
        decoded.extend(vae.decode(samples))
        return plain(vae, samples)

    monkeypatch.setattr(drawn_frames, "decode", decode)
    results = []
    for count in (1, 2, 3):
        written, images, run = draw(name=str(count), frames_at_once=count, conditioning=conditioning)
        results.append(torch.stack(decoded))
        decoded.clear()
        assert written == [1, 2, 3, 4]
    assert drawing.texts(run.events)[::2] == ["frames 1-3 of 4, step 1 of 2", "frame 4 of 4, step 1 of 2"]
    for other in results[1:]:
        assert (other - results[0]).abs().max() < 1e-5
    fewer = draw(SCENES[1:3], name="fewer", conditioning=conditioning)[1]
    assert torch.equal(fewer, to_images(to_bytes(results[0][1:3])))


def test_prompts_of_different_lengths_are_not_padded_for_each_other(draw):
    """CLIP reads 77 tokens at a time: a long prompt is in no batch with short ones, and makes none of them longer."""
    long = "[NC] a town " + "with a red house and a green tree and a blue lake " * 9
    alone = draw(SCENES[:2], name="alone")[1]
    written, images, run = draw([SCENES[0], long, SCENES[1]], name="long", frames_at_once=3)
    assert torch.equal(images[[0, 2]], alone)
    assert len({text.partition(",")[0] for text in drawing.texts(run.events)}) == 3


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_sde"])
def test_samplers_that_draw_noise_take_one_frame_at_a_time(draw, sampler):
    together, images, run = draw(SCENES[:3], sampler_name=sampler, frames_at_once=3)
    assert messages(run) == [
        f"with {sampler} an image depends on the others of its batch, so all frames but the anchors are drawn one at a "
        "time, and frames_at_once has no effect."
    ]
    _, alone, run = draw(SCENES[2:3], name="alone", sampler_name=sampler)
    assert torch.equal(alone, images[2:]) and messages(run) == []


def test_which_samplers_mix_images(host):
    from storyreel.host.story.noise import mixes_images

    plain = {"euler", "heun", "dpmpp_2m", "ddim", "uni_pc", "res_multistep", "ipndm", "lms", "dpm_fast"}
    mixed = {"euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "lcm", "ddpm", "dpm_adaptive", "er_sde", "sa_solver"}
    assert {name: mixes_images(name) for name in plain | mixed} == {name: name in mixed for name in plain | mixed}


def test_noise_is_that_of_the_host_for_each_seed(host):
    import comfy.sample
    from storyreel.host.story.noise import FrameNoise

    samples = torch.zeros(2, 4, 8, 8)
    noise = FrameNoise([7, 2**64 - 1]).generate_noise({"samples": samples})
    for row, seed in zip(noise, (7, 2**64 - 1), strict=True):
        assert torch.equal(row[None], comfy.sample.prepare_noise(samples[:1], seed))
    with pytest.raises(ValueError, match="2 samples and there are 3 seeds"):
        FrameNoise([1, 2, 3]).generate_noise({"samples": samples})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(frames="5 3"), "Draw Story: frames, line 1: frame 5 does not exist; the story has frames 1 to 4."),
        (dict(frames="2 locked"), "frames locks frame 2, which has no image in"),
        (dict(name="../escaped"), "Draw Story: name is '../escaped'; a name inside"),
        (dict(name=""), "Draw Story: name is ''; a name is expected"),
        (dict(width=68), "Draw Story: width is 68; a multiple of 8 from 64 to 16384 is expected"),
        (dict(clip=None), "Draw Story: nothing is connected; either clip, or positive and negative are expected"),
        (dict(positive=["text", 0]), "clip and positive are connected; either clip"),
        (dict(clip=None, negative=["text", 1]), "Draw Story: negative is connected; either clip"),
        (dict(vae=["nothing", 0]), "Draw Story: vae is empty: the checkpoint has none"),
        (dict(frames=["number", 0]), "Draw Story: frames is 7; a text is expected"),
    ],
)
def test_a_wrong_input_is_refused_before_anything_is_sampled(refused, changed, message):
    assert message in refused(values={"nothing": None, "number": 7}, **changed)
