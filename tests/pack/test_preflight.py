"""Wrong inputs are refused before anything is sampled: no image, no video and no shot is computed."""

import copy

import pytest
import torch
from harness.values import GiveValue, given


def node(kind: str, /, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


class Late(GiveValue):
    """Returns images and records each call: it stands for a long sampling."""

    asked: list[str] = []

    def give(self, name):
        self.asked.append(name)
        return (torch.rand(3, 64, 64, 3),)


@pytest.fixture
def refused(host):
    """refused(node) -> the error; fails if the node's input from `late` was computed."""
    Late.asked.clear()
    base = {
        "late": node("Late", name="images"),
        "world": node("StoryReelLoadStoryworld", precision="auto"),
        "story": node(
            "StoryReelScript", characters="[Pim] a hero", scenes="[Pim] waves #", style="(No style)", negative=""
        ),
        "text": node("StoryReelEncodeStory", clip=["world", 1], story=["story", 0]),
        "video_model": node(
            "StoryReelDynamiCrafterLoader",
            checkpoint="storyworld_video.safetensors",
            model_type="auto",
            precision="auto",
        ),
        "sampler": node("StoryReelDDIMSampler", eta=1.0, keep_clean=False),
        "sigmas": node("StoryReelDDIMSigmas", model=["video_model", 0], spacing="uniform_trailing", steps=1),
    }

    def run(kind: str, **inputs) -> str:
        schema = host.nodes[kind].GET_SCHEMA()
        show = node("PreviewAny", source=["tested", 0]) if schema.outputs else None
        with host.node(Late), given(host, **{"NaN": float("nan"), "million": 1_000_000, "nothing": None}) as values:
            prompt = copy.deepcopy(base) | values | {"tested": node(kind, **inputs), "show": show}
            used = needed(prompt, "show")
            with pytest.raises(RuntimeError) as error:
                host.run({id: entry for id, entry in prompt.items() if id in used})
        assert Late.asked == [], "it was computed first"
        return str(error.value)

    return run


def needed(prompt: dict, id: str) -> set[str]:
    links = [value for value in prompt[id]["inputs"].values() if isinstance(value, list)]
    return {id}.union(*(needed(prompt, link[0]) for link in links))


SHARED = dict(vae=["world", 2], clip_vision=["world", 3], sampler=["sampler", 0], sigmas=["sigmas", 0], seed=1, fps=8.0)
SHARED |= dict(positive=["text", 0], negative=["text", 1])
SHOT = SHARED | dict(model=["video_model", 0], keyframes=["late", 0], mode="interpolate", width=64, height=64, frames=4)
SHOT |= dict(fs=0, cfg_text=1.0, cfg_image=1.0, cfg_rescale=0.0)
LONG = SHARED | dict(model=["video_model", 0], frames=["late", 0], anchor=0, chunks=1, chunk_length=4, overlap=1)
LONG |= dict(cfg=1.0, cam_strength=1.0, apm_strength=1.0, color_match=0.0, output_images=False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(width=72), "The video is 72 x 64 pixels. Width and height must be multiples of"),
        (dict(frames=["million", 0]), "Animate Story: frames is 1000000; 3 to 4096 is expected"),
        (dict(cfg_rescale=["NaN", 0]), "Animate Story: cfg_rescale is nan; a number is expected"),
        (dict(vae=["nothing", 0]), "Animate Story: vae is empty and the checkpoint contains none"),
        (dict(model=["world", 0]), "which cannot animate an image. Use one of DynamiCrafter, Wan"),
    ],
)
def test_an_impossible_shot_is_refused_before_its_keyframes(refused, changed, message):
    assert message in refused("StoryReelAnimateStory", **SHOT | changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(overlap=4), "chunk_length is 4 and overlap 4, so|continues from 1 frame"),
        (dict(model=["world", 0]), "cannot continue a clip"),
        (dict(cfg=["NaN", 0]), "Extend Video: cfg is nan"),
        (dict(chunks=["million", 0]), "Extend Video: chunks is 1000000"),
    ],
)
def test_impossible_chunks_are_refused_before_the_video(refused, changed, message):
    text = refused("StoryReelExtendVideo", **LONG | changed)
    assert any(part in text for part in message.split("|")), text


def test_subtitles_without_captions_are_refused_before_the_video(refused):
    assert "the STORY has no captions" in refused("StoryReelSubtitles", video=["late", 0], story=["story", 0])


def test_a_wrong_results_file_is_refused_before_the_video(host, refused):
    settings = dict(video=["late", 0], chunk_length=0, overlap=8, prompt="", slice_height=0.5)
    assert "filename_prefix is '../x'" in refused("StoryReelMeasureVideo", **settings, filename_prefix="../x")


def test_with_valid_inputs_the_images_are_computed(host):
    """Otherwise the tests above could never fail."""
    Late.asked.clear()
    settings = dict(video=["late", 0], chunk_length=0, overlap=8, prompt="", slice_height=0.5, filename_prefix="x")
    with host.node(Late):
        host.run({"late": node("Late", name="images"), "tested": node("StoryReelMeasureVideo", **settings)})
    assert Late.asked == ["images"]
