"""The workflows without a browser: posted to a real server as scripts do, followed, interrupted, and refused.

That each runs to its end is in test_workflows: what the browser posts is the API file.
"""

import pytest
from harness import workflows
from hosting.server import Refused

PAGES = "story/page"  # the prefix of the pages that a story workflow saves


@pytest.fixture(scope="module")
def client(stocked_server):
    return stocked_server.client()


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
    assert {
        node: len(workflows.images_of(client, again.outputs[node])) for node in workflows.shown(prompt)
    } == workflows.shown(prompt)


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
    ("StoryReelConsistentAttention", "preset.blocks", "left", "'left' not in ['auto',"),
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
