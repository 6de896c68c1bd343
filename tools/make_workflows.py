"""Writes workflows/NAME.json, its API form workflows/api/NAME.json and its thumbnail workflows/NAME.jpg.

    python tools/make_workflows.py [NAME...]

The graphs are those of graphs/. A real frontend builds, saves, exports and shows each of them, so that the
files are what the Save and Export menus write. Run it again after an input of a node was added or renamed.
"""

from __future__ import annotations

import io
import json
import math
import sys
import tempfile
import uuid
from dataclasses import asdict
from pathlib import Path

import environment
from environment import ROOT, SetupError
from graphs import GRAPHS
from graphs.parts import PAGES, PREVIEW, VIDEOS, Graph, Node, file_name, room_below

WORKFLOWS = ROOT / "workflows"
VERSION = "0.1.0"
THUMBNAIL_WIDTH, THUMBNAIL_BYTES = 800, 120_000

BUILD = """async ({name, prompt, graph, properties}) => {
  await app.loadApiJson(prompt, name);
  const place = (node, [x, y, width, height]) => {
    node.pos = [x, y];
    node.setSize([Math.max(width, node.computeSize()[0]), Math.max(height, node.computeSize()[1])]);
  };
  for (const [id, {box, inputs, muted}] of Object.entries(graph.nodes)) {
    const node = app.graph.getNodeById(Number(id));
    if (muted) node.mode = LiteGraph.NEVER;
    place(node, box);
    Object.assign(node.properties, properties[id]);
    const after = node.widgets?.find(widget => widget.name === 'control_after_generate');
    if (after) after.value = inputs[after.name];
  }
  const note = LiteGraph.createNode('MarkdownNote');
  app.graph.add(note);
  note.title = 'How to use it';
  note.widgets[0].value = graph.note;
  place(note, graph.note_box);
  for (const {title, colour, nodes} of graph.groups) {
    const group = new LiteGraph.LGraphGroup(title);
    group.color = colour;
    app.graph.add(group);
    const boxes = nodes.map(id => graph.frames[id]);
    const [left, top] = [Math.min(...boxes.map(box => box[0])) - 15, Math.min(...boxes.map(box => box[1])) - 75];
    group.pos = [left, top];
    group.size = [
      Math.max(...boxes.map(box => box[0] + box[2])) + 15 - left,
      Math.max(...boxes.map(box => box[1] + box[3])) + 15 - top,
    ];
  }
  await app.extensionManager.command.execute('Comfy.Canvas.FitView');
  await new Promise(done => setTimeout(done, 1000));  // the view glides there, and is saved with the graph
}"""

# The page without its menus, the graph's top left corner at the page's, unscaled; returns the graph's size.
PRESENT = """async margin => {
  const set = app.extensionManager.setting.set;
  for (const name of ['Comfy.Minimap.Visible', 'Comfy.Graph.CanvasInfo', 'Comfy.Graph.CanvasMenu'])
    await set(name, false);
  await app.extensionManager.command.execute('Workspace.ToggleFocusMode');
  await new Promise(done => setTimeout(done, 1000));
  const boxes = [...app.graph.nodes, ...app.graph.groups].map(item => item.boundingRect);
  const [left, top] = [0, 1].map(i => Math.min(...boxes.map(box => box[i])) - margin);
  const [right, bottom] = [0, 1].map(i => Math.max(...boxes.map(box => box[i] + box[i + 2])) + margin);
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [-left, -top];
  app.canvas.setDirty(true, true);
  return [right - left, bottom - top];
}"""


def main(names: list[str]) -> int:
    if (code := environment.rerun(__file__, names)) is not None:
        return code
    sys.path.append(str(ROOT / "tests"))  # the server and the browser are the tests' own
    from harness.browser import Browser
    from harness.folders import link, make_base
    from harness.pictures import write_clips, write_example, write_other
    from harness.server import Server

    with tempfile.TemporaryDirectory() as folder:
        base = make_base(Path(folder))
        link(base / "custom_nodes" / "ComfyUI-StoryReel", ROOT)
        write_example(base / "input")
        write_other(base / "input")
        write_clips(base / "input")
        graphs = [graph for graph in GRAPHS if not names or graph.name in names]
        for graph in graphs:  # a name is enough for the frontend's lists, and for it to miss nothing
            for address, models in (model for node in graph.nodes.values() for model in node.models):
                (base / "models" / models).mkdir(exist_ok=True)
                (base / "models" / models / file_name(address)).touch()
        if any(graph.shows_run for graph in graphs):
            write_stand_ins(base / "models", [graph for graph in graphs if graph.shows_run])
        with Server(base) as server, Browser() as browser:
            ours = {name for name in server.client().object_info() if name.startswith("StoryReel")}
            for graph in graphs:
                frontend = browser.open(server.url)
                write(graph, ours, frontend, server.client())
                frontend.page.context.close()  # a page of this size draws itself as long as it is open
                print(f"workflows/{graph.name}.json")
    return 0


def write(graph: Graph, ours: set[str], frontend, client):
    prompt = {
        id: {"class_type": node.type, "inputs": dict(node.inputs), "_meta": {"title": node.title}}
        for id, node in graph.nodes.items()
    }
    properties = {id: properties_of(node, ours) for id, node in graph.nodes.items()}
    frames = {id: frame_of(node) for id, node in graph.nodes.items()}
    spec = {
        "name": graph.name,
        "prompt": prompt,
        "graph": {**asdict(graph), "frames": frames},
        "properties": properties,
    }
    frontend.page.evaluate(BUILD, spec)
    workflow = frontend.save()
    workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"comfyui-storyreel/{graph.name}"))
    write_json(WORKFLOWS / f"{graph.name}.json", workflow)
    write_json(WORKFLOWS / "api" / f"{graph.name}.json", frontend.export())
    alone = not any(node.models for node in graph.nodes.values())
    saved = [node.inputs.get("filename_prefix") for node in graph.nodes.values()]
    if alone and PAGES in saved and VIDEOS not in saved:
        picture = drawn_page(client, frontend.export())
    else:
        if alone:
            frontend.run()
        if graph.shows_run:
            run_small(frontend)
        picture = screenshot(frontend.page)
    (WORKFLOWS / f"{graph.name}.jpg").write_bytes(thumbnail(picture))


def frame_of(node: Node) -> tuple[int, int, int, int]:
    """What a group's frame is to hold of a node: its box, and the room below for live previews."""
    x, y, width, height = node.box
    room = room_below(node.type)
    return x, y, width, height + (room if room >= PREVIEW else 0)


def write_stand_ins(models: Path, graphs: list[Graph]):
    """What `run_small` runs on."""
    import pack

    pack.load_host(environment.find_host())
    pack.load_pack()
    from harness import tiny
    from harness.workflows import STAND_INS

    for name in {file_name(address) for graph in graphs for node in graph.nodes.values() for address, _ in node.models}:
        folder, file = STAND_INS[name]
        tiny.write(Path(file).stem, models / folder)


def run_small(frontend):
    """Run what the tests run of a workflow, with pictures that differ and a curve to see, and set every widget back."""
    from harness import workflows

    prompt = frontend.export()
    small = workflows.small(prompt, seed=1)
    small[workflows.find_all(prompt, "LoadImage")[-1]] = {"image": "another.png"}
    for id in workflows.find_all(prompt, "StoryReelTrainMotionPredictor"):
        small[id]["steps"] = 100
    frontend.set_widgets(small)
    frontend.run()
    frontend.set_widgets({id: {name: prompt[id]["inputs"][name] for name in names} for id, names in small.items()})


def properties_of(node, ours: set[str]) -> dict:
    """Where the frontend finds a missing pack, and a missing file."""
    if node.type in ours:
        properties = {"cnr_id": "comfyui-storyreel", "ver": VERSION}
    else:
        properties = {"cnr_id": "comfy-core", "ver": environment.HOST_VERSION}
    if node.models:
        models = [{"name": file_name(url), "url": url, "directory": directory} for url, directory in node.models]
        properties["models"] = models
    return properties


def write_json(path: Path, value: dict):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def drawn_page(client, prompt: dict) -> bytes:
    """The comic page that a workflow makes here and now. Nothing else of it is run."""
    (node,) = (id for id, node in prompt.items() if node["inputs"].get("filename_prefix") == PAGES)
    needed, waiting = {}, [node]
    while waiting:
        id = waiting.pop()
        needed[id] = prompt[id]
        waiting += [value[0] for value in prompt[id]["inputs"].values() if isinstance(value, list)]
    result = client.run(needed)
    if result.status != "success":
        raise SetupError(result.message)
    return client.view(result.outputs[node]["images"][0])


def screenshot(page) -> bytes:
    """The whole graph, as the frontend draws it."""
    width, height = page.evaluate(PRESENT, 30)
    page.set_viewport_size({"width": math.ceil(width) + 200, "height": math.ceil(height)})  # beside it: a button
    page.wait_for_timeout(1500)  # the canvas takes some frames to follow
    return page.screenshot(clip={"x": 0, "y": 0, "width": width, "height": height})


def thumbnail(picture: bytes) -> bytes:
    """A JPEG of THUMBNAIL_WIDTH and at most THUMBNAIL_BYTES."""
    from PIL import Image

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image = image.resize((THUMBNAIL_WIDTH, round(image.height * THUMBNAIL_WIDTH / image.width)), Image.LANCZOS)
    for quality in range(95, 40, -5):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() < THUMBNAIL_BYTES:
            break
    return file.getvalue()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        sys.exit(f"error: {error}")
