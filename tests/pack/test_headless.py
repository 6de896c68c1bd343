"""The workflows without a browser: posted to a real server as scripts do, followed, interrupted, and refused."""

import io

import av
import pytest
from harness import workflows
from harness.server import Refused
from PIL import Image

PAGES = "story/page"  # the prefix of the pages that a story workflow saves


@pytest.fixture(scope="module")
def client(stocked_server):
    return stocked_server.client()


def view(client, result, node: str) -> list[Image.Image]:
    """What a node shows, as it comes through /view."""
    return [Image.open(io.BytesIO(client.view(image))) for image in result.outputs[node]["images"]]


def play(client, result, node: str, rate: float = 8) -> list[Image.Image]:
    """The frames of the video that a node saved."""
    (video,) = result.outputs[node]["images"]
    with av.open(io.BytesIO(client.view(video))) as container:
        assert container.streams.video[0].codec.name == "h264" and video["filename"].endswith(".mp4")
        assert container.streams.video[0].average_rate == rate
        return [frame.to_image() for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", workflows.NAMES)
def test_an_api_file_is_posted_and_drawn(client, name):
    prompt = workflows.small_prompt(name, seed=workflows.seed_of(name))
    result = client.run(prompt)  # raises if validation says anything at all
    assert result.status == "success", result.message

    for sampler in workflows.samplers(prompt):
        progress = [data for kind, data in result.events if kind == "progress" and data["node"] == sampler]
        assert progress[-1]["value"] == progress[-1]["max"] == workflows.STEPS
        assert {data["prompt_id"] for data in progress} == {result.prompt_id}

    for extender in workflows.find_all(prompt, "StoryReelExtendVideo"):
        last = [data for kind, data in result.events if kind == "progress" and data["node"] == extender][-1]
        assert last["value"] == last["max"] == workflows.LONG["chunks"] * workflows.STEPS

    for node, count in workflows.shown(prompt).items():
        if prompt[node]["class_type"] == "SaveVideo":
            count, rate = workflows.saved_video(prompt)
            frames = play(client, result, node, rate)
            assert len(frames) == count and {frame.size for frame in frames} == {(64, 64)}
            continue
        images = view(client, result, node)
        assert len({image.tobytes() for image in images}) == len(images) == count
        assert all(image.format == "PNG" and image.mode == "RGB" for image in images)
        source = prompt[prompt[node]["inputs"]["images"][0]]
        if source["class_type"] == "StoryReelComicPage":
            assert images[0].width == source["inputs"]["page_width"]
        elif count == workflows.FRAMES:
            assert {image.size for image in images} == {(workflows.WIDTH, workflows.HEIGHT)}


def test_an_interrupt_stops_within_one_step(client):
    prompt = workflows.small_prompt("story_comic_sd15", seed=2)
    sampler = workflows.find(prompt, "KSampler")
    prompt[sampler]["inputs"]["steps"] = 50
    latent = prompt[workflows.find(prompt, "StoryReelStoryLatent")]["inputs"]
    latent.update(width=256, height=256)  # a step takes long enough for the message to arrive within it
    done = []

    def interrupt_after_first_step(kind, data, result):
        if kind == "progress" and data["node"] == sampler:
            done.append(data["value"])
            if len(done) == 1:
                client.interrupt(result.prompt_id)

    result = client.run(prompt, on_event=interrupt_after_first_step)
    assert result.status == "interrupted"
    assert done[-1] <= done[0] + 1 < 50

    prompt[sampler]["inputs"]["steps"] = workflows.STEPS
    latent.update(width=workflows.WIDTH, height=workflows.HEIGHT)
    again = client.run(prompt)
    assert again.status == "success", again.message
    assert {node: len(view(client, again, node)) for node in workflows.shown(prompt)} == workflows.shown(prompt)


def test_a_shot_shows_previews_and_stops_within_a_step(client):
    prompt = workflows.small_prompt("dynamicrafter_loop", seed=4)
    sampler = workflows.find(prompt, "KSampler")
    prompt[sampler]["inputs"]["steps"] = 40
    done = []

    def interrupt_after_some_steps(kind, data, result):
        if kind == "progress" and data["node"] == sampler:
            done.append(data["value"])
            if len(done) == 3:
                client.interrupt(result.prompt_id)

    result = client.run(prompt, on_event=interrupt_after_some_steps, extra_data={"preview_method": "latent2rgb"})
    assert result.status == "interrupted" and done[-1] <= done[2] + 2 < 40
    assert result.previews


BAD_VALUES = [  # node, input, value, what the refusal must say
    ("StoryReelConsistentAttention", "strength", 9, "bigger than max of 4"),
    ("StoryReelConsistentAttention", "preset.sampling_rate", 2, "bigger than max of 1"),
    ("StoryReelConsistentAttention", "preset.blocks", "left", "'left' not in ['up',"),
    ("StoryReelConsistentAttention", "preset", "grand", "preset is grand; one of low-vram, mask, paper, custom is"),
    ("StoryReelScript", "style", "Cubist", 'style "Cubist" does not exist; there are'),
    ("StoryReelStoryLatent", "width", -8, "smaller than min of 0"),
    ("StoryReelStoryLatent", "noise", "white", "'white' not in ['different',"),
    ("StoryReelComicPage", "layout", "spiral", "'spiral' not in ['automatic',"),
    ("StoryReelComicPage", "border", -1, "smaller than min of 0"),
]


@pytest.mark.parametrize(("node", "name", "value", "words"), BAD_VALUES)
def test_a_bad_value_is_refused(client, node, name, value, words):
    """By validation, before anything runs, in an answer that names node and input and says what is wrong."""
    prompt = workflows.small_prompt("story_comic_sd15", seed=3)
    bad = workflows.find(prompt, node)
    prompt[bad]["inputs"][name] = value
    (page,) = (id for id, node in prompt.items() if node["inputs"].get("filename_prefix") == PAGES)
    with pytest.raises(Refused) as caught:
        client.queue(prompt, partial_execution_targets=[page])  # else the host would drop the page and run the rest
    assert caught.value.status == 400
    answer = caught.value.reply["node_errors"]
    assert list(answer) == [bad] and answer[bad]["class_type"] == node
    named = [error for error in answer[bad]["errors"] if error["extra_info"]["input_name"] == name]
    assert words in " ".join(f"{error['message']} {error['details']}" for error in named)
    assert name in caught.value.reasons()


FOUND_BY_THE_NODE = [  # node, input, value, what the error must say
    ("StoryReelScript", "scenes", "[Mia] runs\n[Mai] runs after her", "line 2: [Mai] is not a character; did you mean"),
    ("StoryReelStoryLatent", "width", 77, "width is 77; a multiple of 8"),
    ("StoryReelStoryLatent", "width", 48, "width is 48; a multiple of 8 from 64"),
]


@pytest.mark.parametrize(("node", "name", "value", "words"), FOUND_BY_THE_NODE)
def test_a_mistake_that_a_node_finds_is_told_once_and_before_any_step(client, node, name, value, words):
    prompt = workflows.small_prompt("story_comic_sd15", seed=3)
    bad = workflows.find(prompt, node)
    prompt[bad]["inputs"][name] = value
    result = client.run(prompt)
    assert result.status == "error" and result.error["node_id"] == bad
    assert result.error["exception_message"].count(words) == 1
    assert not [
        data for kind, data in result.events if kind == "progress" and data["node"] in workflows.samplers(prompt)
    ]
