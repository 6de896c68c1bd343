"""Linked values, which the host does not check: every node checks them by its own schema before it works."""

import math

import pytest
import torch
from harness.values import given

NUMBERS = {"text": "7", "list": [7], "NaN": math.nan, "infinity": math.inf, "nothing like it": {}, "switch": True}
LATENT_CHANNELS = 4


def images(count: int = 2, side: int = 64, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, side, side, channels, generator=torch.Generator().manual_seed(1))


def title_of(cls) -> str:
    return cls.GET_SCHEMA().display_name.removesuffix(" (StoryReel)")


@pytest.fixture(scope="module")
def pack(host) -> dict:
    """{node id: class}, except the inner nodes of expansions, which run nowhere else."""
    from storyreel.nodes.node import InnerNode

    classes = {name: cls for name, cls in host.nodes.items() if name.startswith("StoryReel")}
    assert len(classes) > 25
    return {name: cls for name, cls in classes.items() if not issubclass(cls, InnerNode)}


def declared(cls) -> list[tuple[str, object, callable]]:
    """(name, input, function from a value to the node's arguments) of all inputs, those in options of a choice too."""
    from comfy_api.latest import io

    inputs = []
    for entry in cls.GET_SCHEMA().inputs:
        inputs.append((entry.id, entry, lambda value, entry=entry: {entry.id: value}))
        for option in entry.options if isinstance(entry, io.DynamicCombo.Input) else ():
            for inner in option.inputs:

                def wrapped(value, entry=entry, option=option, inner=inner):
                    return {entry.id: {entry.id: option.key, inner.id: value}}

                inputs.append((inner.id, inner, wrapped))
    return inputs


def refusal(cls, values: dict) -> str:
    """The error with which a node refuses values, before it reads any other input."""
    if cls.GET_SCHEMA().is_input_list:
        values = {name: [value] for name, value in values.items()}
    with pytest.raises(ValueError) as refused:
        cls.execute(**values)
    return str(refused.value)


def wrong_values(entry) -> list:
    from comfy_api.latest import io

    if isinstance(entry, io.Int.Input | io.Float.Input):
        wrong = list(NUMBERS.values())
        wrong += [entry.min - 1] if entry.min is not None else []
        wrong += [entry.max + 1] if entry.max is not None else []
        return wrong + ([0.5] if isinstance(entry, io.Int.Input) else [])
    if isinstance(entry, io.Boolean.Input):
        return [1, "true", math.nan, None.__class__]
    if isinstance(entry, io.DynamicCombo.Input | io.Combo.Input):
        return ["evil", 0, math.nan, ["none"], "../" * 9]
    if isinstance(entry, io.String.Input):
        return [7, math.nan, ["text"], b"text"]
    return []


def test_every_number_choice_switch_and_text_is_checked_by_its_schema(pack):
    """About 1,500 tries: one sentence with the node, the input, the value and what was expected."""
    tried = 0
    for node, cls in pack.items():
        for name, entry, give in declared(cls):
            for value in wrong_values(entry):
                message = refusal(cls, give(value))
                assert message.startswith(f"{title_of(cls)}: {name} is ") and " expected." in message, (
                    node,
                    name,
                    value,
                    message,
                )
                assert len(message) < 400 and message.count("\n") == 0
                tried += 1
    assert tried > 800


def test_long_names_make_no_long_sentence():
    """Such as names of files."""
    from storyreel.core.inputs import read_choice

    with pytest.raises(ValueError) as refused:
        read_choice("file", "x" * 900, [f"{number}{'é' * 200}.safetensors" for number in range(40)])
    assert len(str(refused.value)) < 400 and "one of 0éé" in str(refused.value)


def test_every_number_has_bounds(pack):
    """Without them nothing could be refused."""
    from comfy_api.latest import io

    for node, cls in pack.items():
        for name, entry, _ in declared(cls):
            if isinstance(entry, io.Int.Input | io.Float.Input):
                assert entry.min is not None and entry.max is not None, (node, name)


def tensors(kind: str) -> dict[str, object]:
    """{what is wrong: a value} for inputs of a type."""
    holed = images()
    holed[1, 3, 5, 0] = math.nan
    if kind == "IMAGE":
        return {
            "frame 2 of 2": holed,
            "infinity": torch.full((1, 8, 8, 3), math.inf),
            "no images": torch.zeros(0, 8, 8, 3),
            "a tensor": torch.rand(8, 8),
            "'a.png'": "a.png",
            "int32": torch.zeros(1, 8, 8, 3, dtype=torch.int32),
        }
    if kind == "MASK":
        return {"frame 2 of 2": holed[..., 0], "a tensor": torch.rand(8), "'mask'": "mask"}
    if kind == "LATENT":
        samples = torch.zeros(3, LATENT_CHANNELS, 8, 8)
        samples[2] = math.inf
        return {"frame 3 of 3": {"samples": samples}, "no samples": {"samples": samples[:0]}, "LATENT": {}}
    if kind == "SIGMAS":
        return {
            "1 noise levels": torch.ones(1),
            "0 noise levels": torch.ones(0),
            "nan": torch.tensor([1.0, math.nan, 0.0]),
            "-1.0": torch.tensor([1.0, -1.0]),
        }
    if kind == "CONDITIONING":
        text = torch.zeros(1, 77, 8)
        text[0, 4] = math.nan
        pooled = {"pooled_output": torch.full((1, 8), math.nan)}
        return {"frame 1 of 1": [[text, {}]], "NaN": [[torch.zeros(1, 77, 8), pooled]], "CONDITIONING": []}
    return {"a VIDEO is expected": "video.mp4"} if kind == "VIDEO" else {}


@pytest.mark.parametrize("kind", ["IMAGE", "MASK", "LATENT", "SIGMAS", "CONDITIONING", "VIDEO"])
def test_every_wrong_tensor_is_refused_by_name(pack, kind):
    """NaN and infinity with the number of the frame; a value of another type with its type."""
    tried = 0
    for node, cls in pack.items():
        for name, entry, give in declared(cls):
            if kind in entry.get_io_type().split(","):
                for what, value in tensors(kind).items():
                    if kind == "VIDEO" and entry.get_io_type() != "VIDEO":
                        continue
                    message = refusal(cls, give(value))
                    assert message.startswith(f"{title_of(cls)}: {name}") and what in message, (
                        node,
                        name,
                        what,
                        message,
                    )
                    tried += 1
    assert tried


@pytest.mark.parametrize("depth", ["gray", "alpha", "half", "bfloat16", "bytes"])
def test_images_of_any_depth_become_the_same_three_channels(host, depth):
    """Through Comic Page and Join Clips, in the host: the result is that of the plain images."""
    plain = (images() * 255).round() / 255
    if depth == "gray":
        plain = plain[..., :1].expand(-1, -1, -1, 3)
    forms = {
        "gray": plain[..., :1],
        "alpha": torch.cat([plain, torch.rand(2, 64, 64, 1)], -1),
        "half": plain.half(),
        "bfloat16": plain.bfloat16(),
        "bytes": (plain * 255).round().byte(),
    }
    if depth in ("half", "bfloat16"):
        plain = forms[depth].float()
    story = dict(characters="a cat", scenes="runs #\nsleeps #", style="(No style)", negative="")
    with given(host, plain=plain, other=forms[depth]) as values:
        prompt = values | {"story": {"class_type": "StoryReelScript", "inputs": story}}
        for name in ("plain", "other"):
            page = dict(images=[name, 0], story=["story", 0], layout="four panel", font="Comic Neue (bundled)")
            prompt[f"page {name}"] = {"class_type": "StoryReelComicPage", "inputs": page}
            prompt[f"show {name}"] = {"class_type": "PreviewImage", "inputs": {"images": [f"page {name}", 0]}}
            joined = dict(images=[name, 0], fps=8.0, shared_ends=False, loop=False)
            prompt[f"join {name}"] = {"class_type": "StoryReelJoinClips", "inputs": joined}
            prompt[f"show frames {name}"] = {"class_type": "PreviewImage", "inputs": {"images": [f"join {name}", 1]}}
        outputs = host.run(prompt).values
    assert torch.equal(outputs["page plain"][0], outputs["page other"][0])
    assert torch.equal(outputs["join plain"][1], outputs["join other"][1])
    assert outputs["join plain"][1].shape[-1] == 3


FORMS = {
    "gray": lambda plain: plain[..., :1],
    "alpha": lambda plain: torch.cat([plain, torch.rand(*plain.shape[:-1], 1)], -1),
    "half": lambda plain: plain.half(),
    "bytes": lambda plain: (plain * 255).round().byte(),
}


def node(kind: str, /, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def in_every_node(images: list, start: list, end: list) -> dict:
    """Nodes that read images, with the included models."""
    text = {"positive": ["text", 0], "negative": ["text", 0]}
    size = dict(mode="interpolate", width=64, height=64, frames=3, fs=0)
    tokens = {"token_space": "IP-Adapter", "token_space.ip_adapter": "storyworld_ip_adapter.safetensors"}
    held = dict(easing="linear", hold_start=0, hold_end=0, strength=1.0, frames=4)
    figures = dict(chunk_length=0, overlap=8, prompt="", slice_height=0.5, filename_prefix="forms/figures")
    return {
        "world": node("StoryReelLoadStoryworld", precision="auto"),
        "text": node("CLIPTextEncode", clip=["world", 1], text="a hero"),
        "story": node("StoryReelScript", characters="a cat", scenes="runs\nsits", style="(No style)", negative=""),
        "shot": node(
            "StoryReelDynamiCrafterConditioning", **text, **size, clip_vision=["world", 3], vae=["world", 2],
            start_image=start, end_image=end,
        ),
        "predictor": node("StoryReelMotionPredictorLoader", predictor="none", **tokens),
        "motion": node(
            "StoryReelPredictMotion", predictor=["predictor", 0], clip_vision=["world", 3], 
**dict(start_image=start, end_image=end), **held
        ),
        "likeness": node("StoryReelMeasureStory", images=images, story=["story", 0], clip_vision=["world", 3]),
        "video": node("CreateVideo", images=images, fps=8.0),
        "figures": node("StoryReelMeasureVideo", video=["video", 0], reference_image=start, **figures),
        "titles": node("StoryReelSubtitles", video=["video", 0], story=["story", 0]),
        "save": node("SaveVideo", video=["titles", 0], filename_prefix="forms/video", format="auto", codec="auto"),
        **{f"show {id}": node("PreviewAny", source=[id, slot]) for id, slot in (("shot", 0), ("motion", 0))},
        "show likeness": node("PreviewAny", source=["likeness", 0]),
    }  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_node_reads_images_of_any_form_equally(host, form):
    """DynamiCrafter's conditioning, a predicted motion, figures of a story and of a video, a video with subtitles."""
    plain = (images() * 255).round() / 255
    if form == "gray":
        plain = plain[..., :1].expand(-1, -1, -1, 3).contiguous()
    if form == "half":
        plain = plain.half().float()

    def results(given_images: torch.Tensor) -> list:
        with given(host, images=given_images, start=given_images[:1], end=plain[1:]) as values:
            outputs = host.run(values | in_every_node(["images", 0], ["start", 0], ["end", 0])).values
        (text, extras), (_, report) = outputs["shot"][0][0], (None, outputs["figures"][0])
        tensors = [value for value in extras.values() if isinstance(value, torch.Tensor)]
        return [text, *tensors, outputs["motion"][0].tokens, outputs["likeness"][0], report]

    for first, second in zip(results(plain), results(FORMS[form](plain)), strict=True):
        same = torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
        assert same


@pytest.mark.parametrize("shape", [(32, 32), (1, 32, 32), (1, 1, 32, 32)])
def test_masks_are_read_as_by_the_hosts_own_nodes(shape):
    from storyreel.core.inputs import read_masks

    mask = torch.rand(shape)
    assert torch.equal(read_masks("mask", mask), mask.reshape(1, 32, 32))


def test_plain_values_are_not_copied():
    from storyreel.core.inputs import read_images, read_latent, read_masks

    plain, latent = images(), {"samples": torch.zeros(1, 4, 8, 8)}
    assert read_images("images", plain).data_ptr() == plain.data_ptr()
    assert read_latent("latent", latent) is latent
    assert read_masks("mask", plain[..., 0]).data_ptr() == plain.data_ptr()


@pytest.mark.parametrize(
    ("node", "name", "value", "message"),
    [
        ("StoryReelComicPage", "page_width", 1_000_000, "page_width is 1000000; 256 to 8192 is expected"),
        ("StoryReelComicPage", "layout", "evil", "layout is 'evil'; one of automatic, four panel, classic is expected"),
        ("StoryReelStoryLatent", "width", math.nan, "width is nan; a whole number is expected"),
    ],
)
def test_a_wrong_linked_value_is_one_sentence_in_the_host(host, node, name, value, message):
    story = dict(characters="a cat", scenes="runs\nsleeps", style="(No style)", negative="")
    inputs = {
        "StoryReelComicPage": dict(images=["images", 0], layout="automatic", font="Comic Neue (bundled)"),
        "StoryReelStoryLatent": dict(width=64, height=64, noise="different"),
    }[node]
    with given(host, value=value, images=images()) as values:
        prompt = values | {
            "story": {"class_type": "StoryReelScript", "inputs": story},
            "node": {"class_type": node, "inputs": {**inputs, "story": ["story", 0], name: ["value", 0]}},
            "any": {"class_type": "PreviewAny", "inputs": {"source": ["node", 0]}},
        }
        with pytest.raises(RuntimeError, match=f"{title_of(host.nodes[node])}: {message}"):
            host.run(prompt)
