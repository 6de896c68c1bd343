"""Brings workflows/NAME.json into the form in which it ships, and exports its API form, workflows/api/NAME.json.

    python tools/workflows/normalize.py [NAME...]            # all of them if none is named
    python tools/workflows/normalize.py --check [NAME...]    # writes nothing, fails unless nothing would change

The graph is edited in ComfyUI: open the .json, change it, save it over the old one, run this. A real frontend loads the
file, which fills in inputs that nodes have gained, and exports the API form. Here links get stable numbers, nodes the
names of packs and model files, the layout is repaired as far as `layout.repair` can, and wires that run behind a node
get reroutes. What is left to a person is listed. A normalized file is not changed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

if __name__ == "__main__":  # a script finds its own folder only
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.path.append(str(Path(__file__).resolve().parents[2]))

import environment  # noqa: E402
import hosts  # noqa: E402
from environment import ROOT, SetupError  # noqa: E402

from tools.workflows import frontend, graph, layout, reroutes  # noqa: E402

WORKFLOWS = ROOT / "workflows"

SLOTS = """() => Object.fromEntries(app.graph.nodes.map(node => {
  const from = ([x, y]) => [x - node.pos[0], y - node.pos[1]];
  const inputs = (node.inputs ?? []).map((_, number) => from(node.getInputPos(number)));
  return [node.id, {inputs, outputs: (node.outputs ?? []).map((_, number) => from(node.getOutputPos(number)))}];
}))"""


def main(arguments: list[str]) -> int:
    if (code := environment.rerun(__file__, arguments)) is not None:
        return code
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--check", action="store_true", help="write nothing; fail unless nothing would change")
    options = parser.parse_args(arguments)
    changed, wrong = [], []
    with frontend.session() as (server, browser, _):
        info = server.client().object_info()
        declared = {kind: about["input"] for kind, about in info.items()}
        page = browser.open(server.url)
        for name in names_of(options.names):
            files, faults = normalized(name, page, declared)
            changed += [path for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
            wrong += [f"{name}: {fault}" for fault in faults]
            if not options.check:
                for path, text in files.items():
                    path.write_text(text, encoding="utf-8")
    for path in changed:
        print(f"{path.relative_to(ROOT)} {'is not normalized' if options.check else 'changed'}")
    for fault in wrong:
        print(fault)
    return int(bool(wrong or (changed and options.check)))


def names_of(wanted: list[str]) -> list[str]:
    names = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
    if unknown := sorted(set(wanted) - set(names)):
        raise SetupError(f"there is no workflow {', '.join(unknown)} in {WORKFLOWS}")
    return wanted or names


def path_of(name: str) -> Path:
    return WORKFLOWS / f"{name}.json"


def normalized(name: str, page, declared: dict) -> tuple[dict[Path, str], list[str]]:
    """{file: its text} of a workflow and its API form, and what a person has to repair."""
    saved = json.loads(path_of(name).read_text(encoding="utf-8"))
    if missing := sorted({node["type"] for node in saved["nodes"]} - declared.keys() - set(graph.FRONTEND_NODES)):
        raise SetupError(f"{name}: ComfyUI {hosts.PINNED} and this pack have no {', '.join(missing)}.")
    graph.renumber(saved)
    page.load(saved, name)
    workflow = page.save()
    graph.renumber(workflow)
    graph.clean(workflow, name)
    try:
        graph.describe(workflow, shipped_files(), versions())
    except graph.Broken as error:
        raise SetupError(f"{name}: {error}") from error
    layout.repair(workflow, declared)
    slots = {int(node): places for node, places in page.page.evaluate(SLOTS).items()}
    reroutes.reroute(workflow, slots, layout.boxes(workflow, declared))
    faults = layout.faults(workflow, declared) + layout.hidden_wires(workflow, declared, slots)
    workflow["extra"] = graph.reroutes_in_order(workflow["extra"])
    return {path_of(name): text_of(workflow), WORKFLOWS / "api" / f"{name}.json": text_of(page.export())}, faults


def text_of(value: dict) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def shipped_files() -> set[str]:
    return {path.name for path in (ROOT / "models" / "storyworld").rglob("*.safetensors")}


def versions() -> dict[str, str]:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    (ours,) = (line.split('"')[1] for line in lines if line.startswith("version = "))
    return {"comfyui-storyreel": ours, "comfy-core": hosts.PINNED}


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        sys.exit(f"error: {error}")
