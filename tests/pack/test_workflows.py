"""The shipped workflows as files, and in a real browser: they open, look right, run, and survive being shared."""

import json
import os
import re
from pathlib import Path

import pytest
from harness import workflows
from harness.setup import open_browser
from PIL import Image
from workflows.graph import reroutes_in_order
from workflows.wires import SLOT, sampled

ROOT = Path(__file__).resolve().parents[2]
RENDERERS = ("classic", "vue")
EVERY_WORKFLOW = pytest.mark.parametrize("name", workflows.NAMES)
# A graph is the same for the host and for a script whichever renderer shows it: these tests take turns.
IN_TURN = pytest.mark.parametrize(
    ("name", "renderer"),
    [(name, RENDERERS[number % 2]) for number, name in enumerate(workflows.NAMES)],
    indirect=["renderer"],
)


@EVERY_WORKFLOW
def test_a_workflow_comes_with_its_thumbnail(name):
    path = workflows.FOLDER / f"{name}.jpg"
    with Image.open(path) as thumbnail:
        assert thumbnail.format == "JPEG" and thumbnail.width == 800
    assert path.stat().st_size < 120_000


def test_every_workflow_has_its_api_form_and_no_other():
    assert sorted(path.stem for path in (workflows.FOLDER / "api").iterdir()) == workflows.NAMES
    assert sorted(path.stem for path in workflows.FOLDER.glob("*.jpg")) == workflows.NAMES


@EVERY_WORKFLOW
def test_the_api_form_is_the_graph(name):
    """Without a browser; `test_it_opens` compares with what the frontend exports."""
    titles = {str(node["id"]): node["title"] for node in workflows.workflow(name)["nodes"] if "title" in node}
    exported = workflows.prompt(name)
    for id, node in exported.items():
        title = node.pop("_meta")["title"]
        assert title == titles.get(id, title)  # a node with the title of its type is saved without it
    assert workflows.prompt_of(workflows.workflow(name)) == exported


@EVERY_WORKFLOW
def test_inputs_and_values_are_as_the_nodes_declare_them(host, name):
    """Every node exists, every input that it needs is there, and no other; a value is one of those to choose from."""
    for id, node in workflows.prompt_of(workflows.workflow(name)).items():
        declared = {
            key: (kind, about) for key, kind, about in inputs_of(host.nodes[node["class_type"]], node["inputs"])
        }
        given = {key for key in node["inputs"] if not key.startswith(GROWING)}
        assert given - NEWER_INPUTS.get(node["class_type"], set()) <= declared.keys(), (id, node["class_type"])
        for key, (kind, about) in declared.items():
            value = node["inputs"].get(key)
            if value is None or isinstance(value, list):
                continue
            choices = kind if isinstance(kind, list) else about.get("options")
            if isinstance(kind, list | str) and choices and not str(value).endswith(WEIGHTS) and key not in FILES:
                assert value in [each["key"] if isinstance(each, dict) else each for each in choices], (id, key)
            if kind in ("INT", "FLOAT"):
                assert about["min"] <= value <= about["max"], (id, key)


def test_a_host_without_a_newer_input_ignores_it(host):
    prompt = {
        "image": {"class_type": "EmptyImage", "inputs": dict(width=32, height=16, batch_size=2, color=255)},
        "video": {"class_type": "CreateVideo", "inputs": dict(images=["image", 0], fps=8.0, bit_depth=8)},
        "parts": {"class_type": "GetVideoComponents", "inputs": dict(video=["video", 0])},
        "shown": {"class_type": "PreviewImage", "inputs": dict(images=["parts", 0])},
    }
    assert len(host.run(prompt).outputs["shown"]["images"]) == 2


@EVERY_WORKFLOW
def test_a_note_names_what_exists(host, name):
    """What is bold in a note is a node, a group or an input of the graph, or a node that may be added to it."""
    import nodes

    graph = workflows.workflow(name)
    known = {"Run", *(group["title"] for group in graph["groups"]), *nodes.NODE_DISPLAY_NAME_MAPPINGS.values()}
    known |= host.nodes.keys() | {node["title"] for node in graph["nodes"] if "title" in node}
    known |= {entry["name"] for node in graph["nodes"] for entry in node.get("inputs", [])}
    (note,) = (node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote")
    bold = [text.replace("\n", " ") for text in re.findall(r"\*\*(.+?)\*\*", note, re.DOTALL)]
    assert bold and [text for text in bold if not any(text in each for each in known)] == []
    assert re.findall(r"\*\*.+?\*\*\n[a-z]\w*", note) == [], "the frontend shows no space between these words"


NEWER_INPUTS = {"CreateVideo": {"bit_depth"}}  # of the host's own nodes, but not of all hosts that the pack supports
WEIGHTS = (".safetensors", ".ckpt", ".pth", ".pt", ".bin")
GROWING = ("images.image", "photos.photos")  # as many as are linked
FILES = ("image", "file")  # of the user's input folder


def inputs_of(node, given: dict):
    """(name, kind, options) of a node's inputs; within an option that is chosen, those of the option.

    Not all need be given: a newer host may have moved an input into an option and still read it where it was.
    """

    def walk(declared: dict, prefix: str = ""):
        for key, (kind, *rest) in {**declared.get("required", {}), **declared.get("optional", {})}.items():
            about = rest[0] if rest else {}
            yield prefix + key, kind, about
            for option in about.get("options") or []:
                if isinstance(option, dict) and option["key"] == given.get(prefix + key):
                    yield from walk(option["inputs"], f"{prefix}{key}.")

    yield from walk(node.INPUT_TYPES())


@EVERY_WORKFLOW
def test_both_ends_of_a_link_name_it(name):
    """The frontend drops a link that only the list of links knows, and says nothing."""
    saved = workflows.workflow(name)
    nodes = {node["id"]: node for node in saved["nodes"]}
    for number, source, output, target, place, _ in saved["links"]:
        assert nodes[target]["inputs"][place]["link"] == number
        assert number in nodes[source]["outputs"][output]["links"]


@EVERY_WORKFLOW
def test_a_workflow_names_the_packs_that_it_needs(name):
    for node in workflows.workflow(name)["nodes"]:
        if node["type"] == "MarkdownNote":  # belongs to the frontend itself
            continue
        ours = node["type"].startswith("StoryReel")
        assert node["properties"]["cnr_id"] == ("comfyui-storyreel" if ours else "comfy-core"), node["type"]
        assert node["properties"]["ver"]


@EVERY_WORKFLOW
def test_a_workflow_says_where_its_files_are_published(name):
    """The frontend offers a download only for a file named exactly like the widget's value, from a direct address. What
    comes with the pack is not published elsewhere."""
    ours = {path.name for path in (ROOT / "models" / "storyworld").rglob("*.safetensors")}
    for node in workflows.workflow(name)["nodes"]:
        values = [value for value in node.get("widgets_values", []) if isinstance(value, str)]
        files = [value for value in values if value.endswith((".safetensors", ".ckpt", ".pth", ".pt", ".bin"))]
        files = [file for file in files if file not in ours]
        models = node["properties"].get("models", [])
        assert [model["name"] for model in models] == files
        for model in models:
            assert model["url"].startswith("https://huggingface.co/") and "/resolve/" in model["url"]
            assert model["url"].endswith("/" + model["name"])
            assert model["directory"].isidentifier()


def test_the_toys_workflows_need_no_files_and_the_others_do():
    alone = [name for name in workflows.NAMES if not workflows.models(name)]
    longer = ["storyworld_story_to_long_video", "storyworld_story_to_shots"]
    assert alone == [
        "story_more_frames_from_bank",
        "storyworld_attention_map",
        "storyworld_comic",
        "storyworld_comic_transformer",
        "storyworld_long_story",
        *longer,
        "storyworld_with_and_without",
    ]


def test_every_node_of_the_pack_is_in_a_workflow(host):
    used = {node["type"] for name in workflows.NAMES for node in workflows.workflow(name)["nodes"]}
    ours = {name: node for name, node in host.nodes.items() if name.startswith("StoryReel")}
    assert {name for name, node in ours.items() if not node.GET_SCHEMA().is_dev_only} <= used


@pytest.fixture(scope="module")
def browser():
    with open_browser() as running:
        yield running


@pytest.fixture(scope="module")
def page(browser, stocked_server):
    """The frontend: one page for both renderers, since a page that nobody looks at draws itself all the same."""
    opened = browser.open(stocked_server.url)
    opened.set("Comfy.Minimap.Visible", False)  # it covers a corner of the graph
    opened.page.evaluate(KEEP_POINTS)
    return opened


@pytest.fixture(scope="module", params=RENDERERS)
def renderer(request) -> str:
    """For the module, so that all tests of one renderer are done before those of the other."""
    return request.param


@pytest.fixture
def frontend(page, renderer):
    page.render_with(renderer == "vue")
    return page


@pytest.fixture
def look(frontend, renderer):
    """look(name): a picture for people, in the folder that STORYREEL_SCREENSHOTS names."""
    folder = os.environ.get("STORYREEL_SCREENSHOTS")
    return lambda name: folder and frontend.screenshot(Path(folder) / f"{name}_{renderer}.png")


# Once they stand still: the newer renderer takes some frames to find the size of a node.
BOXES = """async renderer => {
  const measured = () => {
    const {scale, offset: [x, y]} = app.canvas.ds;
    return Object.fromEntries(app.graph.nodes.map(node => {
      if (renderer === 'classic') return [node.title, [...node.boundingRect]];
      const box = document.querySelector(`[data-node-id="${node.id}"]`).getBoundingClientRect();
      return [node.title, [box.x / scale - x, box.y / scale - y, box.width / scale, box.height / scale]];
    }));
  };
  let boxes = {}, same = 0;
  while (same < 3) {
    await new Promise(requestAnimationFrame);
    const now = measured();
    same = JSON.stringify(now) === JSON.stringify(boxes) ? same + 1 : 0;
    boxes = now;
  }
  return boxes;
}"""


def overlaps(boxes: dict[str, list[float]]) -> list[tuple[str, str]]:
    """Pairs of nodes whose (x, y, width, height) cover each other."""

    def apart(a, b):
        return a[0] + a[2] <= b[0] or a[1] + a[3] <= b[1]

    names = sorted(boxes)
    pairs = [(a, b) for a in names for b in names if a < b]
    return [(a, b) for a, b in pairs if not apart(boxes[a], boxes[b]) and not apart(boxes[b], boxes[a])]


# Lets a drawn path keep its points, and reads those of every wire: [source, target, [splines]].
KEEP_POINTS = """() => {
  const {moveTo, bezierCurveTo} = Path2D.prototype;
  Path2D.prototype.moveTo = function (x, y) { this.at = [x, y]; this.splines = []; moveTo.call(this, x, y); };
  Path2D.prototype.bezierCurveTo = function (a, b, c, d, x, y) {
    this.splines?.push([this.at, [a, b], [c, d], [x, y]]);
    this.at = [x, y];
    bezierCurveTo.call(this, a, b, c, d, x, y);
  };
}"""
WIRES = """() => {
  app.canvas.draw(true, true);
  const title = id => app.graph.getNodeById(id).title;
  return [...app.graph.links.values()].map(link => {
    const parts = [link];
    for (let id = link.parentId; id !== undefined; id = parts.at(-1).parentId) parts.push(app.graph.reroutes.get(id));
    return [title(link.origin_id), title(link.target_id), parts.flatMap(part => part.path.splines)];
  });
}"""


def hidden_wires(wires: list, boxes: dict[str, list[float]]) -> list[tuple[str, str, str]]:
    """(source, target, node) of wires that run behind a node. A slot lies within the node that it belongs to."""
    found = []
    for source, target, splines in wires:
        points = [point for spline in splines for point in sampled(spline)]
        for node, (x, y, width, height) in boxes.items():
            left, right = x + SLOT * (node == target), x + width - SLOT * (node == source)
            if any(left < px < right and y < py < y + height for px, py in points):
                found.append((source, target, node))
    return found


def check_layout(frontend, renderer):
    """No node hides another, and none hides a wire, of which every one is drawn."""
    boxes, wires = frontend.page.evaluate(BOXES, renderer), frontend.page.evaluate(WIRES)
    assert len(boxes) == len(frontend.page.evaluate("() => app.graph.nodes.map(node => node.id)"))
    assert overlaps(boxes) == []
    assert all(splines for *_, splines in wires) and hidden_wires(wires, boxes) == []


@EVERY_WORKFLOW
def test_it_opens(frontend, renderer, name, look):
    """Nothing is missing but published files, which the frontend offers to download."""
    saved = workflows.workflow(name)
    frontend.load(saved, name)
    assert workflows.missing_nodes(frontend) == []
    assert frontend.export() == workflows.prompt(name)
    again = frontend.save()
    assert reroutes_in_order(again["extra"]) == saved["extra"]
    now = {node["id"]: node for node in again["nodes"]}
    for node in saved["nodes"]:
        assert now[node["id"]].get("widgets_values", []) == node.get("widgets_values", []), node["type"]
        assert now[node["id"]]["properties"] == node["properties"]

    look(name)
    check_layout(frontend, renderer)

    models = workflows.models(name)
    if models:
        frontend.page.locator("[data-testid=error-overlay-see-errors]").click()
        offered = frontend.page.locator("[data-testid=missing-model-importable-rows]").inner_text()
        frontend.set("Comfy.RightSidePanel.IsOpen", False)
        words = [word for word in offered.split() if not word.isdigit()]  # a number: of nodes that want it
        rows = re.findall(r"(\S+) (\w+)( Download)?", " ".join(words))
        wanted = {(model["name"], model["directory"], downloads(model["name"])) for model in models}
        assert sorted(rows) == sorted(wanted)
    else:
        assert frontend.page.locator("[data-testid=error-overlay]").count() == 0
    assert frontend.errors == []


@IN_TURN
def test_its_api_form_opens_too(frontend, name):
    """The file for scripts may be dropped onto the canvas as well."""
    frontend.page.evaluate("async ([flow, name]) => await app.loadApiJson(flow, name)", [workflows.prompt(name), name])
    assert frontend.export() == workflows.prompt(name)
    assert frontend.errors == []


def downloads(file: str) -> str:
    """What the frontend offers to do about a missing file; of a .bin it names no more than the folder."""
    return "" if file.endswith(".bin") else " Download"


def check_outputs(client, prompt: dict, run: str):
    """Images and videos of a run are there, as many, as large and as different as they should be."""
    outputs = client.outputs(run)
    for node, count in workflows.shown(prompt).items():
        if prompt[node]["class_type"] == "SaveVideo":
            count, rate = workflows.saved_video(prompt)
            frames = workflows.frames_of(client, outputs[node], rate)
            assert len(frames) == count and {frame.size for frame in frames} == {(64, 64)}
            continue
        images = workflows.images_of(client, outputs[node])
        assert len({image.tobytes() for image in images}) == len(images) == count
        assert all(image.format == "PNG" and image.mode == "RGB" for image in images)
        source = prompt[prompt[node]["inputs"]["images"][0]]
        if source["class_type"] == "StoryReelComicPage":
            assert images[0].width == source["inputs"]["page_width"]
        elif count == workflows.FRAMES:
            assert {image.size for image in images} == {(workflows.WIDTH, workflows.HEIGHT)}


@IN_TURN
def test_it_runs_from_the_run_button(frontend, name, look, stocked_server):
    """What it posts is the API file, as `test_it_opens` shows; so what it saves is checked here for scripts, too."""
    frontend.load(workflows.workflow(name), name)
    missing = frontend.page.locator("[data-testid=error-overlay]")
    if workflows.models(name):
        missing.wait_for(timeout=30_000)
    frontend.set_widgets(workflows.small(workflows.prompt(name), seed=workflows.seed_of(name)))
    missing.wait_for(state="hidden", timeout=30_000)  # the checkpoint that was missing is no longer asked for
    prompt = frontend.export()
    events = frontend.run()
    look(f"{name}_run")
    assert frontend.node_errors() == {}
    assert events[-1]["type"] == "execution_success", events[-1]

    run = events[-1]["detail"]["prompt_id"]
    progressed = [event["detail"] for event in events if event["type"] == "progress"]
    for sampler in workflows.samplers(prompt):
        progress = [detail for detail in progressed if detail["node"] == sampler]
        assert progress[-1]["value"] == progress[-1]["max"] == workflows.STEPS
        assert {detail["prompt_id"] for detail in progress} == {run}
    for extender in workflows.find_all(prompt, "StoryReelExtendVideo"):
        last = [detail for detail in progressed if detail["node"] == extender][-1]
        assert last["value"] == last["max"] == workflows.LONG["chunks"] * workflows.STEPS
    check_outputs(stocked_server.client(), prompt, run)
    loaders = [id for kind in ("LoadImage", "LoadVideo") for id in workflows.find_all(prompt, kind)]
    loaded = {id: 1 for id in loaders}  # the frontend shows these by itself
    assert frontend.pictures() == workflows.shown(prompt) | loaded
    for loader in workflows.find_all(prompt, "StoryReelDynamiCrafterLoader"):
        (text,) = frontend.page.evaluate(MESSAGES, loader)
        assert text.startswith("DynamiCrafter ") and text in frontend.page.evaluate(SHOWN)
    ours = {id for id, node in prompt.items() if node["class_type"].startswith("StoryReel")}
    after = frontend.export()
    assert {id: after[id] for id in ours} == {id: prompt[id] for id in ours}  # a node's messages are not in the graph
    assert frontend.errors == []
    stocked_server.client().free()  # the next workflow has other models


def test_a_patchs_message_while_a_model_samples_is_on_its_node(frontend):
    """A second pass that begins behind the end of sharing: known when the sampler runs, shown on the node before it."""
    name = "storyworld_comic"
    frontend.load(workflows.workflow(name), name)
    prompt = frontend.export()
    (patch,) = workflows.find_all(prompt, "StoryReelConsistentAttention")
    (sampler,) = workflows.samplers(prompt)
    frontend.set_widgets({sampler: {"denoise": 0.2, "steps": 2}, patch: {"preset.end_percent": 0.75}})
    assert frontend.run()[-1]["type"] == "execution_success"
    (text,) = frontend.page.evaluate(MESSAGES, patch)
    assert "0 of 2 steps share tokens: 2 are after end_percent 0.75" in text
    assert text in frontend.page.evaluate(SHOWN) and frontend.errors == []
    frontend.run()
    assert frontend.page.evaluate(MESSAGES, patch) == [text], "nothing ran, so it still holds"
    frontend.set_widgets({sampler: {"denoise": 1.0, "steps": 8}})
    assert frontend.run()[-1]["type"] == "execution_success"
    assert frontend.page.evaluate(MESSAGES, patch) == [""], "enough steps share now; the patch did not run again"


def test_editing_a_caption_samples_nothing(frontend, renderer):
    """In the shipped graph, from the Run button: the page is drawn again, and no image."""
    name = "storyworld_comic"
    frontend.load(workflows.workflow(name), name)
    prompt = workflows.prompt(name)
    small = workflows.small(prompt, seed=3000 + RENDERERS.index(renderer))
    frontend.set_widgets(small)

    def run() -> tuple[set[str], list[dict]]:
        events = frontend.run()
        assert events[-1]["type"] == "execution_success", events[-1]
        details = [(event["type"], event["detail"]) for event in events]
        sampled = {detail["node"] for kind, detail in details if kind == "progress"}
        saved = [
            detail["output"]["images"]
            for kind, detail in details
            if kind == "executed" and "images" in (detail["output"] or {})
        ]
        return sampled, saved

    sampler, captions = workflows.find(prompt, "KSampler"), workflows.find(prompt, "StoryReelCaptions")
    first, _ = run()
    assert sampler in first
    frontend.set_widgets({captions: {"captions": small[captions]["captions"] + "!"}})
    again, saved = run()
    assert again == set() and len(saved) == 2
    assert frontend.errors == []


# A node's messages about its run, and all texts that can be read on the page.
MESSAGES = (
    "id => app.graph.getNodeById(Number(id)).widgets.filter(w => w.name === 'storyreel_messages').map(w => w.value)"
)
SHOWN = "() => [...document.querySelectorAll('textarea')].map(area => area.value)"

# Sets every widget of our nodes to another value; `turn` chooses which for lists. A preset's own widgets follow it.
CHANGE = """turn => {
  const other = ({type, name, value, options}) => {
    const values = options?.values;
    if (values) {
      const steps = values.length > 1 ? 1 + turn % (values.length - 1) : 0;
      return values[(values.indexOf(value) + steps) % values.length];
    }
    if (typeof value === 'boolean') return !value;
    if (typeof value === 'string') return value + ' and more';
    const step = options.step2;
    return Number((value + step <= options.max ? value + step : value - step).toFixed(6));
  };
  for (const node of app.graph.nodes.filter(node => node.type.startsWith('StoryReel')))
    for (let i = 0; i < node.widgets?.length; i++) {
      const widget = node.widgets[i], before = widget.value;
      widget.value = other(widget);
      widget.callback?.(widget.value);
      node.onWidgetChanged?.(widget.name, widget.value, before, widget);
    }
}"""

VALUES = """() => Object.fromEntries(app.graph.nodes.filter(node => node.type.startsWith('StoryReel')).map(
  node => [node.type, Object.fromEntries((node.widgets ?? []).map(widget => [widget.name, widget.value]))]))"""


def test_a_shared_file_keeps_every_value(stocked_server, frontend, renderer):
    """Saved in one renderer, opened in the other. No two files have the same values, so none is left from the last."""
    name = "storyworld_comic"
    info = stocked_server.client().object_info()
    presets = [o["key"] for o in info["StoryReelConsistentAttention"]["input"]["required"]["preset"][1]["options"]]
    files, tried = [], set()
    for turn in range(len(presets) - 1):
        frontend.load(workflows.workflow(name), name)
        before = frontend.page.evaluate(VALUES)
        frontend.page.evaluate(CHANGE, turn)
        after = frontend.page.evaluate(VALUES)
        for node, widgets in after.items():
            for widget, value in widgets.items():
                alone = widget == "font" and info[node]["input"]["required"][widget][1]["options"] == [value]
                assert value != before[node].get(widget) or alone, (node, widget)
        tried.add(after["StoryReelConsistentAttention"]["preset"])
        files.append((json.dumps(frontend.save()), after, frontend.export()))
    assert tried | {before["StoryReelConsistentAttention"]["preset"]} == set(presets)

    frontend.render_with(renderer == "classic")
    for file, values, export in files:
        frontend.load(json.loads(file), "shared")
        assert frontend.page.evaluate(VALUES) == values
        assert frontend.export() == export
    assert frontend.errors == []
