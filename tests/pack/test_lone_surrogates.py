"""Half an emoji in a text, from programs that cut by 16-bit units: its own glyph is lost, and no server stops."""

import pytest

pytestmark = pytest.mark.programs
HALF, MARK = "\ud83d", "\ufffd"


def prompt(characters: str, scenes: str) -> dict:
    def node(kind: str, **inputs) -> dict:
        return {"class_type": kind, "inputs": inputs}

    story = dict(characters=characters, scenes=scenes, style="(No style)", negative="")
    return {
        "story": node("StoryReelScript", **story),
        "picture": node("EmptyImage", width=64, height=64, batch_size=1, color=0),
        "page": node("StoryReelComicPage", images=["picture", 0], story=["story", 0], layout="automatic")
        | {"_meta": {"title": HALF}},
        "show": node("PreviewImage", images=["page", 0]),
        "shots": node("StoryReelKeyframePairs", images=["picture", 0]),
        "text": node("PreviewAny", source=["shots", 0]),
    }


@pytest.fixture(scope="module")
def client(server):
    yield server.client()


def run(client, characters: str, scenes: str, pairs: bool = False):
    graph = prompt(characters, scenes)
    graph["page"]["inputs"]["font"] = "Comic Neue (bundled)"
    if not pairs:
        del graph["shots"], graph["text"]
    return client.run(graph, seconds=120)


@pytest.mark.parametrize("scenes", [f"a cat #half {HALF} here", f"a {HALF} cat #x", f"[Bob] runs #{HALF}\ude00"])
def test_a_story_with_half_an_emoji_becomes_a_page(client, scenes):
    assert run(client, "[Bob] a man", scenes).status == "success"


@pytest.mark.parametrize(
    ("characters", "scenes"),
    [
        ("[Bob] a man", f"[{HALF}] runs"),
        ("[Bob] a man", f"a cat\n{HALF} [x"),
        (f"[{HALF}] a man", "[Bob] runs"),
        (f"[Bob{HALF}] a man\n[Bob{HALF}] again", "[Bob] runs"),
    ],
)
def test_an_error_about_half_an_emoji_arrives_and_the_next_prompt_runs(client, characters, scenes):
    """Whether it comes from the checks or from the run, and also where another node fails too."""
    try:
        result = run(client, characters, scenes)
        assert result.status == "error"
        message = result.error["exception_message"]
    except ValueError as refused:  # by the checks
        message = str(refused)
    message.encode("utf-8")
    assert run(client, "[Bob] a man", "[Bob] runs #fine").status == "success"


def test_another_nodes_error_arrives_with_half_an_emoji(client):
    """Keyframe Pairs fails for one image, with the text in the same graph."""
    result = run(client, "[Bob] a man", f"a cat #{HALF}", pairs=True)
    assert result.status == "error" and "at least 2 are expected" in result.message
    assert run(client, "[Bob] a man", "[Bob] runs #fine").status == "success"
