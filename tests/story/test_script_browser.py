"""The script in the browser: choices and comments as in the host's own prompts, and a mistake shown once."""

import pytest
from harness import workflows


@pytest.fixture
def frontend(browser, server):
    page = browser.open(server.url)
    page.load(workflows.workflow("storyworld_comic"), "storyworld_comic")
    return page


def write(frontend, **texts) -> str:
    """Type into the Story Script; returns the node's id."""
    (script,) = [node["id"] for node in frontend.save()["nodes"] if node["type"] == "StoryReelScript"]
    frontend.set_widgets({script: texts})
    return str(script)


def test_choices_comments_and_number_signs_reach_the_server_as_in_the_hosts_own_prompts(frontend):
    scenes = "// one\n[Pim] {waves|waves} in a {a|a}{b|b} town #We're \\#1! // louder\n[Pim] \\{sits\\} /* tired */ #"
    script = write(frontend, characters="[Pim] a {blue|blue} hero // who", scenes=scenes)
    sent = frontend.export()[script]["inputs"]
    assert sent["characters"] == "[Pim] a blue hero "
    assert sent["scenes"] == "\n[Pim] waves in a ab town #We're \\#1! \n[Pim] {sits}  #"
    assert frontend.errors == []


SHOWN = (
    """id => app.graph.getNodeById(Number(id)).widgets.find(widget => widget.name === 'storyreel_messages')?.value"""
)


def test_a_mistake_is_shown_once_with_its_text_on_the_node(frontend):
    message = "Story Script: scenes line 2: [Pom] is not a character; did you mean [Pim]?"
    script = write(frontend, characters="[Pim] a blue hero", scenes="[Pim] waves\n[Pom] waves")
    failed = [event["detail"] for event in frontend.run() if event["type"] == "execution_error"]
    assert [(error["node_id"], error["exception_message"].strip()) for error in failed] == [(script, message)]
    assert frontend.node_errors() == {}
    assert frontend.page.evaluate(SHOWN, script) == message
    frontend.page.evaluate("() => { app.api.dispatchCustomEvent('execution_start', {}) }")
    assert frontend.page.evaluate(SHOWN, script) == ""
