"""Makes the thumbnails that ComfyUI's template browser shows, workflows/NAME.jpg.

    python tools/workflows/thumbnails.py [NAME...]    # all of them if none is named

A workflow of the included demo model is run, and its comic page is the thumbnail, or its graph with all that the run
shows. The graphs of `SHOWS_RUN` are run small, on stand-ins for their files. Any other is shown as it opens.
"""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path

if __name__ == "__main__":  # a script finds its own folder only
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.path.append(str(Path(__file__).resolve().parents[2]))

import environment  # noqa: E402
from environment import SetupError  # noqa: E402

from tools.workflows import frontend  # noqa: E402
from tools.workflows.normalize import names_of, path_of  # noqa: E402

SHOWS_RUN = ("semantic_motion_train", "semantic_motion_two_pictures")
PAGES, VIDEOS = "story/page", "story/video"  # file names of comic pages and of videos in the host's output folder
WIDTH, BYTES = 800, 120_000
SECONDS = 3600  # for a run of the included demo model on a busy CPU

# The page without its menus, the graph's top left corner at the page's, unscaled; returns the graph's size.
PRESENT = """async margin => {
  const set = app.extensionManager.setting.set;
  for (const name of ['Comfy.Minimap.Visible', 'Comfy.Graph.CanvasInfo', 'Comfy.Graph.CanvasMenu'])
    await set(name, false);
  await app.extensionManager.command.execute('Workspace.ToggleFocusMode');
  await new Promise(done => setTimeout(done, 1000));
  const items = [...app.graph.nodes, ...app.graph.groups, ...app.graph.reroutes.values()];
  const boxes = items.map(item => item.boundingRect);
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
    with frontend.session() as (server, browser, base):
        for name in names_of(names):
            workflow = json.loads(path_of(name).read_text(encoding="utf-8"))
            if name in SHOWS_RUN:
                write_stand_ins(workflow, base / "models")
            page = browser.open(server.url)
            page.load(workflow, name)
            path_of(name).with_suffix(".jpg").write_bytes(compress(view(workflow, name, page, server.client())))
            page.page.context.close()  # a page of this size draws itself as long as it is open
            print(f"workflows/{name}.jpg")
    return 0


def view(workflow: dict, name: str, page, client) -> bytes:
    """The screenshot for a thumbnail."""
    prompt = page.export()
    included = not any(node["properties"].get("models") for node in workflow["nodes"])
    saved = [node["inputs"].get("filename_prefix") for node in prompt.values()]
    if included and PAGES in saved and VIDEOS not in saved:
        return comic_page(client, prompt)
    if included:
        page.run(SECONDS)
    if name in SHOWS_RUN:
        run_small(page, prompt)
    return screenshot(page.page)


def comic_page(client, prompt: dict) -> bytes:
    """The comic page that a workflow makes. Nothing else of it is run."""
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


def write_stand_ins(workflow: dict, models: Path):
    """Write the files that `run_small` runs on."""
    import pack

    pack.load_host(environment.find_host())
    pack.load_pack()
    from harness import tiny
    from harness.workflows import STAND_INS

    for entry in (entry for node in workflow["nodes"] for entry in node["properties"].get("models", [])):
        folder, file = STAND_INS[entry["name"]]
        tiny.write(Path(file).stem, models / folder)


def run_small(page, prompt: dict):
    """Run what the tests run of a workflow, on two images that differ and with a curve to see, and set all widgets
    back."""
    from harness import workflows

    small = workflows.small(prompt, seed=1)
    small[workflows.find_all(prompt, "LoadImage")[-1]] = {"image": "another.png"}
    for id in workflows.find_all(prompt, "StoryReelTrainMotionPredictor"):
        small[id]["steps"] = 100
    page.set_widgets(small)
    page.run()
    page.set_widgets({id: {name: prompt[id]["inputs"][name] for name in values} for id, values in small.items()})


def screenshot(page) -> bytes:
    """The whole graph, as the frontend draws it."""
    width, height = page.evaluate(PRESENT, 30)
    page.set_viewport_size({"width": math.ceil(width) + 200, "height": math.ceil(height)})  # a button on the right
    page.wait_for_timeout(1500)  # the canvas takes some frames to follow
    return page.screenshot(clip={"x": 0, "y": 0, "width": width, "height": height})


def compress(picture: bytes) -> bytes:
    """A JPEG of WIDTH pixels and at most BYTES."""
    from PIL import Image

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.LANCZOS)
    for quality in range(95, 40, -5):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() < BYTES:
            break
    return file.getvalue()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        sys.exit(f"error: {error}")
