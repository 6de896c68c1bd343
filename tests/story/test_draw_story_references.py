"""Draw Story with reference images, on the demo model's transformer, a Flux: against the host's own nodes."""

import contextlib
import json

import pytest
import torch
from harness import drawing
from harness.drawing import node
from harness.values import given
from storyreel.core.video.files import to_bytes, to_images

SCENES = [
    "[Pim] waving in a meadow",
    "[Pom] sitting on a beach",
    "[NC] a town",
    "[Pim] and [Pom] in a forest",
    "[Pom] waving in a town",
]
TRANSFORMER = node("StoryReelLoadStoryworld", precision="auto", network="transformer")


def picture(seed: int, height: int = 64, width: int = 64, count: int = 1) -> torch.Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def draw(host, tmp_path):
    """draw(scenes, pictures, **inputs) -> (numbers of the images that were written, IMAGE, messages), in one folder.

    pictures: {character: its reference images}.
    """
    with drawing.output_folder(tmp_path / "output") as output:

        def draw(scenes=SCENES, pictures=None, values=None, **inputs):
            before, last, more = drawing.images(output), None, {}
            for name in pictures or {}:
                more[f"reference_{name}"] = node("StoryReelCharacterReference", character=name, images=[name, 0])
                more[f"reference_{name}"]["inputs"] |= {"references": last} if last else {}
                last = [f"reference_{name}", 0]
            prompt = drawing.story(scenes, references=last, **inputs) | {"world": TRANSFORMER} | more
            held = {**(pictures or {}), **(values or {})}
            with given(host, **held) if held else contextlib.nullcontext({}) as values:
                run = host.run({**prompt, **values})
            shown = list(run.outputs.get("draw", {}).get("text", ()))
            return drawing.new_images(before, drawing.images(output)), run.values["draw"][0], shown

        draw.index = lambda: json.loads((output / "story/frames/story/frames.json").read_text())
        yield draw


@pytest.fixture
def stock(host):
    """stock(prompt, seed, pictures) -> the image that the host's own nodes draw of it with these reference images."""

    def stock(text: str, seed: int, pictures: list[torch.Tensor]) -> torch.Tensor:
        graph = {
            "world": TRANSFORMER,
            "positive": node("CLIPTextEncode", clip=["world", 1], text=text),
            "negative": node("CLIPTextEncode", clip=["world", 1], text=""),
            "empty": node("EmptyLatentImage", width=64, height=64, batch_size=1),
            "images": node("VAEDecode", samples=["sampled", 0], vae=["world", 2]),
            "show": node("PreviewImage", images=["images", 0]),
        }
        links = {"positive": ["positive", 0], "negative": ["negative", 0]}
        for number in range(len(pictures)):
            graph[f"latent{number}"] = node("VAEEncode", pixels=[f"picture{number}", 0], vae=["world", 2])
            for name, link in links.items():
                graph[f"{name}{number}"] = node("ReferenceLatent", conditioning=link, latent=[f"latent{number}", 0])
                links[name] = [f"{name}{number}", 0]
        sampling = dict(seed=seed, steps=drawing.STEPS, cfg=2.0, sampler_name="euler", scheduler="normal", denoise=1.0)
        graph["sampled"] = node("KSampler", model=["world", 0], latent_image=["empty", 0], **links, **sampling)
        with given(host, **{f"picture{number}": one for number, one in enumerate(pictures)}) as values:
            run = host.run({**graph, **values})
        return to_images(to_bytes(run.values["images"][0]))

    return stock


PROMPTS = {
    1: "a big red hero sitting on a beach",
    2: "a town",
    3: "a small blue hero and a big red hero in a forest",
    4: "a big red hero waving in a town",
}


def test_a_frame_is_what_the_hosts_own_nodes_draw(draw, stock):
    """With the images of its characters, in the order of their tags; a frame without characters has none."""
    pim, pom = picture(1), picture(2, count=2)
    written, images, shown = draw(pictures={"Pom": pom, "Pim": pim})
    assert written == [1, 2, 3, 4, 5] and shown == []
    seeds = {int(number) - 1: entry["seed"] for number, entry in draw.index()["frames"].items()}
    read = {1: list(pom.split(1)), 2: [], 3: [pim, *pom.split(1)]}
    for number, pictures in read.items():
        assert torch.equal(images[number], stock(PROMPTS[number], seeds[number], pictures)[0])
    assert not torch.equal(images[1], stock(PROMPTS[1], seeds[1], [])[0]), "references are read"


def test_anchor_images_are_references_of_the_other_frames(draw, stock):
    """As they are on disk. The character that has images of its own has no anchor frames."""
    pim = picture(1)
    written, images, _ = draw(pictures={"Pim": pim}, anchor_references=True)
    assert written == [1, 2, 3, 4, 5]
    seeds = {int(number) - 1: entry["seed"] for number, entry in draw.index()["frames"].items()}
    anchor = images[1:2]  # of Pom
    for number, pictures in {3: [pim, anchor], 4: [anchor]}.items():
        assert torch.equal(images[number], stock(PROMPTS[number], seeds[number], pictures)[0])


def test_anchor_frames_share_tokens(draw):
    """In one batch, at a strength above 0; alone they are drawn otherwise."""
    scenes = [SCENES[0], "[Pim] sitting in a town", "[Pim] waving in a forest"]
    _, shared, shown = draw(scenes, anchor_references=True, anchors=2)
    written, apart, _ = draw(scenes, anchor_references=True, anchors=2, strength=0.0)
    assert shown == [] and written == [1, 2, 3] and not torch.equal(shared[:2], apart[:2])


def test_frames_that_read_nothing_are_drawn_together(draw):
    written, together, shown = draw(strength=0.0, frames_at_once=3)
    assert written == [1, 2, 3, 4, 5] and shown == []
    _, alone, _ = draw(strength=0.0, name="alone")
    assert torch.allclose(together, alone, atol=1 / 255 + 1e-6)


def test_twins_have_their_references_in_the_order_of_their_tags(draw):
    """Which does not show in the prompt, as they have one description."""
    twins = dict(characters="[Pim] a small hero\n[Pom] a small hero", pictures={"Pim": picture(1), "Pom": picture(2)})
    _, images, _ = draw(["[Pim] and [Pom] in a forest"], **twins)
    written, others, _ = draw(["[Pom] and [Pim] in a forest"], **twins)
    assert written == [1] and not torch.equal(images, others)


def test_another_reference_draws_the_frames_of_its_character_again(draw):
    pictures = {"Pim": picture(1), "Pom": picture(2)}
    _, images, _ = draw(pictures=pictures)
    assert draw(pictures=pictures)[0] == []
    written, again, _ = draw(pictures={**pictures, "Pom": picture(3)})
    assert written == [2, 4, 5] and torch.equal(images[[0, 2]], again[[0, 2]])


def test_another_anchor_draws_the_frames_of_its_character_again(draw):
    _, images, _ = draw(anchor_references=True)
    assert draw(anchor_references=True)[0] == []
    written, again, shown = draw(anchor_references=True, frames="2 99")
    assert written == [2, 4, 5] and torch.equal(images[[0, 2]], again[[0, 2]])
    assert shown == ["frames 4 and 5 are drawn again because they show Pom, whose anchor frame 2 changed."]


def test_frames_that_read_anchor_images_are_drawn_again(draw):
    """At any strength. Those of the character with images of its own have no anchor frames to compare with."""
    retakes = dict(clip_vision=["world", 3], retakes=1, strength=0.0)
    written, _, shown = draw(SCENES[:2] + SCENES[4:], {"Pim": picture(1)}, anchor_references=True, **retakes)
    assert written == [1, 2, 3, 3]
    assert shown == ["frame 1 is never drawn again, since Pim has no anchor frames to compare with."]


def test_a_large_image_is_made_smaller(draw, stock):
    """To as many pixels as a frame has, in multiples of 16."""
    from comfy.utils import common_upscale

    large = picture(1, 192, 96)
    _, images, _ = draw(["[Pim] waving in a meadow"], {"Pim": large})
    small = common_upscale(large.movedim(-1, 1), 48, 96, "area", "disabled").movedim(1, -1)
    seed = draw.index()["frames"]["1"]["seed"]
    assert torch.equal(images[0], stock("a small blue hero waving in a meadow", seed, [small])[0])


def test_what_has_no_effect_is_named(draw):
    _, _, shown = draw(["[Pim] waving"], {"Pim": picture(1), "Tom": picture(2)}, frames_at_once=2)
    assert shown == [
        "each frame has reference images of its own, so all frames but the anchors are drawn one at a time, and "
        "frames_at_once has no effect.",
        "no frame shows Tom, so the references have no effect.",
    ]


def test_characters_of_a_bank_have_anchor_images(host, draw):
    """As this model reads no bank."""
    scenes = ["[Pim] waving in a meadow", "[Pim] sitting in a town"]
    _, images, _ = draw(scenes, anchor_references=True)
    bank = host.run(drawing.story(scenes, name="bank")).values["draw"][1]
    written, again, shown = draw(
        scenes, {"": picture(1)}, anchor_references=True, bank=["bank", 0], values={"bank": bank}
    )
    assert written == [] and torch.equal(again, images)
    assert shown == [
        "MODEL reads no bank, so bank has no effect.",
        "no frame shows a character without a name, so the references have no effect.",
    ]


def test_what_cannot_be_drawn_is_refused(host, draw):
    with pytest.raises(RuntimeError, match="MODEL is Flux, whose frames cannot read a bank of other frames: connect"):
        draw()
    with pytest.raises(RuntimeError, match="references holds images of Pim already"):
        draw(pictures={"Pim": picture(1), "[Pim]": picture(2)})
    unet = drawing.story(SCENES, anchor_references=True)
    with pytest.raises(
        RuntimeError, match="MODEL is .*, which reads no reference images; an editing model is expected"
    ):
        host.run(unet)
