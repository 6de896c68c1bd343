"""Draw and animate a story with a real headless ComfyUI: images, comic page and video go into output/.

    python tools/demo.py                                      an example story, with the included demo model
    python tools/demo.py --story FILE                         your own story of any length, in the demo model's 60 words
    python tools/demo.py --checkpoint NAME_OR_PATH            with a checkpoint of yours
    python tools/demo.py --ui                                 the workflow in your browser, until Ctrl-C

FILE holds the characters, a line of three dashes, and the scenes, as the Story Script node takes them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import webbrowser
from collections import Counter
from pathlib import Path

import environment
from environment import ROOT, SetupError

PACK = "ComfyUI-StoryReel"
NOT_SHIPPED = {"tests", "tools", "experiments", "output", "workflows"}
PATHS = "checkpoints.json"  # in the host's base directory; the host reads YAML, and JSON is YAML
LIST_CHECKPOINTS = """
import json, os, sys
import comfy.options
paths = [path for path in ("extra_model_paths.yaml", sys.argv.pop(1)) if os.path.isfile(path)]
comfy.options.enable_args_parsing()
import folder_paths
from utils.extra_config import load_extra_path_config
for path in paths:
    load_extra_path_config(path)
print(json.dumps(folder_paths.get_filename_list("checkpoints")))
"""
NAMES = {"StoryReelComicPage": "page", "StoryReelMeasureStory": "plot"}  # what a node's image is called; else picture
DEMO, REAL = "storyworld_story_to_long_video", "story_comic_sd15"  # the workflow without and with a checkpoint


def main(arguments: list[str]) -> int:
    options = read_arguments(arguments)
    if (code := environment.rerun(__file__, arguments)) is not None:
        return code
    folders, checkpoint = choose_checkpoint(options.checkpoint)
    if options.story:
        check_story(options.story)
    base = lay_out_host(folders)
    if checkpoint is not None:
        check_checkpoint(base, checkpoint)
    return (show if options.ui else draw)(options, base, checkpoint)


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", metavar="NAME_OR_PATH", help="a file, or a name in the host's models folder")
    parser.add_argument("--story", metavar="FILE", type=Path, help="characters, a line of ---, scenes")
    parser.add_argument("--workflow", help=f"one of workflows/api (default: {DEMO}, with a checkpoint {REAL})")
    parser.add_argument("--output", metavar="FOLDER", type=Path, default=ROOT / "output", help="default: output/")
    parser.add_argument("--seed", type=int, help="another seed, another picture")
    parser.add_argument("--steps", type=int, help="of every sampler: fewer are quicker, and rougher")
    parser.add_argument("--ui", action="store_true", help="open the workflow in the browser instead")
    options = parser.parse_args(arguments)
    options.workflow = options.workflow or (REAL if options.checkpoint else DEMO)
    known = sorted(path.stem for path in (ROOT / "workflows" / "api").glob("*.json"))
    if options.workflow not in known:
        parser.error(f"there is no workflow {options.workflow}; there are {', '.join(known)}")
    wants_checkpoint = any(
        node["class_type"] == "CheckpointLoaderSimple" for node in read_prompt(options.workflow).values()
    )
    if wants_checkpoint != bool(options.checkpoint):
        needs = "needs a --checkpoint" if wants_checkpoint else "takes no --checkpoint"
        parser.error(f"the workflow {options.workflow} {needs}")
    unused = [name for name in ("story", "seed", "steps") if getattr(options, name) is not None]
    if options.ui and unused:
        parser.error(f"--ui opens the workflow as it is, to be changed there: no --{', --'.join(unused)} with it")
    if options.story:
        options.story = read_story(options.story)
    return options


def read_prompt(workflow: str) -> dict:
    """A workflow in API form."""
    return json.loads((ROOT / "workflows" / "api" / f"{workflow}.json").read_text(encoding="utf-8"))


def read_story(path: Path) -> dict[str, str]:
    """{"characters": ..., "scenes": ...} of a story file. Raises SetupError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise SetupError(f"the story {path} cannot be read: {error.strerror}.") from None
    divider = next((i for i, line in enumerate(lines) if line.strip("- ") == "" and line.count("-") >= 3), None)
    if divider is None:
        raise SetupError(f"{path} has no line of three dashes between the characters and the scenes.")
    return {"characters": "\n".join(lines[:divider]), "scenes": "\n".join(lines[divider + 1 :])}


def check_story(story: dict[str, str]):
    """Raises SetupError where Story Script would refuse the story, before a host is started for it."""
    import pack

    pack.load_pack()
    from storyreel.core.story.script import ScriptError, read_script
    from storyreel.core.story.styles import NO_STYLE, PUBLISHED_STYLES

    try:
        read_script(**story, style=NO_STYLE, negative="", styles={style.name: style for style in PUBLISHED_STYLES})
    except ScriptError as error:
        raise SetupError(f"the story cannot be read: {error}") from None


def lay_out_host(folders: list[Path]) -> Path:
    """A base directory for the demo's host, with the pack in it but its workflows, which `show` fills in, and with the
    `folders` of checkpoints that it looks into."""
    from hosting.folders import link, make_base

    base = make_base(environment.CACHE / "demo")
    pack = base / "custom_nodes" / PACK
    shutil.rmtree(pack, ignore_errors=True)
    pack.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in NOT_SHIPPED and not entry.name.startswith("."):
            link(pack / entry.name, entry)
    entries = {f"folder{i}": {"base_path": str(path), "checkpoints": "."} for i, path in enumerate(folders)}
    (base / PATHS).write_text(json.dumps(entries))
    return base


def choose_checkpoint(wanted: str | None) -> tuple[list[Path], str | None]:
    """Folders of checkpoints for the host to look into, and the name of the one to use. Raises SetupError."""
    folders = [environment.find_host() / "models" / "checkpoints"]
    if wanted is None:
        return folders, None
    path = Path(wanted).expanduser().resolve()
    if path.is_file():
        return [path.parent, *folders], path.name
    if Path(wanted).is_absolute() or wanted.startswith((".", "~")):
        raise SetupError(f"there is no checkpoint {path}.")
    return folders, wanted  # the host knows more folders than we do: `check_checkpoint` asks it


def check_checkpoint(base: Path, checkpoint: str):
    """Raises SetupError where no folder of the host has this checkpoint. Its own folder_paths knows; that needs no
    server."""
    command = [sys.executable, "-c", LIST_CHECKPOINTS, str(base / PATHS), "--base-directory", str(base)]
    asked = subprocess.run(command, cwd=environment.find_host(), capture_output=True, text=True)
    if asked.returncode:
        raise SetupError(f"the host does not list its checkpoints: {asked.stderr.strip()}")
    names = json.loads(asked.stdout.splitlines()[-1])
    if checkpoint not in names:
        raise SetupError(f"the host has no checkpoint {checkpoint}; it has {', '.join(names) or 'none'}.")


def start(base: Path, output: Path):
    """A server on `base` that writes to `output`."""
    from hosting.server import Server

    return Server(base, "--extra-model-paths-config", str(base / PATHS), "--output-directory", str(output))


def fill_in(prompt: dict, checkpoint: str | None, options: argparse.Namespace) -> dict:
    """The workflow in API form with the checkpoint, and the story, seed and steps if given."""
    changes = {}
    if checkpoint is not None:
        changes["CheckpointLoaderSimple"] = {"ckpt_name": checkpoint}
    if options.seed is not None:
        changes["KSampler"] = {"seed": options.seed}
    if options.steps is not None:
        for kind in ("KSampler", "StoryReelDDIMSigmas", "BasicScheduler"):
            changes[kind] = {**changes.get(kind, {}), "steps": options.steps}
    for node in prompt.values():
        node["inputs"].update(changes.get(node["class_type"], {}))
    if options.story:
        first, *others = sorted(scripts_of(prompt), key=int)
        prompt[first]["inputs"].update(options.story)
        for id in others:  # what happens next: more of what the story ended with
            prompt[id]["inputs"].update(options.story, scenes=last_scene(options.story["scenes"]))
        for node in prompt.values():
            if node["class_type"] == "StoryReelCaptions":  # the story's own are behind a # of its scenes
                node["inputs"]["captions"] = ""
        draw_frame_by_frame(prompt, first)
    return prompt


def draw_frame_by_frame(prompt: dict, script: str):
    """Let Draw Story draw the script's images, of a story of any length, in place of a sampler that draws all at once.
    A workflow stays as it is if it compares two samplers, or if its model is no UNet."""

    def inputs_of(link: list) -> dict:
        return prompt[link[0]]["inputs"]

    samplers = [node["inputs"] for node in prompt.values() if node["class_type"] == "KSampler"]
    for decode in (node for node in prompt.values() if node["class_type"] == "VAEDecode"):
        sampler = inputs_of(decode["inputs"]["samples"])
        attention = inputs_of(sampler["model"]) if sampler in samplers else {}
        ours = attention.get("story") == [script, 0]
        others = [other for other in samplers if other["latent_image"] == sampler.get("latent_image")]
        if not ours or not is_unet(prompt, attention["model"]) or len(others) > 1:
            continue
        latent = inputs_of(sampler["latent_image"])
        decode["class_type"] = "StoryReelDrawStory"
        decode["inputs"] = {
            **{name: sampler[name] for name in ("seed", "steps", "cfg", "sampler_name", "scheduler")},
            **{name: latent[name] for name in ("width", "height")},
            **{name: attention[name] for name in ("model", "story", "strength")},
            "vae": decode["inputs"]["vae"],
            "clip": inputs_of(sampler["positive"])["clip"],
            "anchors": 2,
            "frames_at_once": 1,
            "sampling_rate": 0.5,
            "name": "demo",
        }


def is_unet(prompt: dict, model: list) -> bool:
    """Whether the MODEL of a link comes from a loader of UNets, directly or through patches."""
    node = prompt[model[0]]
    if "model" in node["inputs"]:
        return is_unet(prompt, node["inputs"]["model"])
    return node["class_type"] == "CheckpointLoaderSimple" or node["inputs"].get("network") == "unet"


def scripts_of(prompt: dict) -> list[str]:
    return [id for id, node in prompt.items() if node["class_type"] == "StoryReelScript"]


def last_scene(scenes: str) -> str:
    """Its line, without the caption."""
    told = [line.rpartition("#")[0] or line for line in scenes.splitlines()]
    return next((scene for scene in reversed(told) if scene.strip()), "")


def draw(options: argparse.Namespace, base: Path, checkpoint: str | None) -> int:
    from hosting.server import Refused

    prompt = fill_in(read_prompt(options.workflow), checkpoint, options)
    if checkpoint is None:
        print("The included demo model draws: 128 x 128 pixels, 60 words.")
        print("For anything else use --checkpoint with an SD1.5 checkpoint (or SDXL with --workflow story_comic_sdxl).")
    describe(prompt, base)
    print("Starting the host ...", flush=True)
    # the host's own output stays: shots that are there are not made again
    with start(base, base / "output") as server:
        client = server.client()
        try:
            result = client.run(prompt, on_event=Progress(prompt, titles_of(client)), seconds=24 * 3600)
        except Refused as refused:
            raise SetupError(f"the host refuses the story: {refused.reasons()}.") from None
        if result.status != "success":
            raise SetupError(f"the story was not finished: {result.message}")
        written = save(client, prompt, result.outputs, options.output)
    print("Done:")
    for path in written:
        print(f"  {path}")
    return 0


class Progress:
    """Prints what the websocket tells: the node at work, and how far it is.

    titles: {class: title} of the nodes.
    """

    def __init__(self, prompt: dict, titles: dict[str, str]):
        self.prompt, self.titles = prompt, titles
        self.part = ""

    def __call__(self, kind: str, data: dict, result):
        title = self.title(data.get("node"))
        if kind == "executing" and title:
            self.part = ""
            print(f"  {title}", flush=True)
        elif kind == "progress" and title and not self.part:
            print(f"    {data['value']} of {data['max']}", flush=True)
        elif kind == "text" and title:  # "frame 7 of 24, step 3 of 16", and later the next step
            part = data["text"].partition(", step")[0]
            if part != self.part:
                print(f"    {part}", flush=True)
            self.part = part

    def title(self, node: str | None) -> str | None:
        """Of a node of the prompt; None for one of an expansion, and for no node."""
        kind = self.prompt[node]["class_type"] if node in self.prompt else None
        return kind and self.titles.get(kind, kind)


def titles_of(client) -> dict[str, str]:
    """{class: the title that people see} of every node of the host."""
    titles = ((kind, about["display_name"] or kind) for kind, about in client.object_info().items())
    return {kind: title.removesuffix(" (StoryReel)") for kind, title in titles}


def describe(prompt: dict, base: Path):
    """Print what will be drawn, and where each image is as soon as it is finished."""
    for node in prompt.values():
        if node["class_type"] == "StoryReelDrawStory":
            folder = base / "output" / "story" / "frames" / node["inputs"]["name"]
            print(f"Each image is in {folder} as soon as it is drawn.")
    if any(node["class_type"] == "StoryReelAnimateStory" for node in prompt.values()):
        print("All images come first, then the shots between them, then the video.")


def save(client, prompt: dict, outputs: dict[str, dict], parent: Path) -> list[Path]:
    """Fetch every picture and video through /view into a new folder under `parent`, numbered as they came."""
    number = 1
    while (folder := parent / f"story_{number:03}").exists():
        number += 1
    folder.mkdir(parents=True)
    written = []
    count = Counter()
    for node, shown in outputs.items():
        source, _ = prompt[node]["inputs"].get("images", (None, 0))
        name = NAMES.get(source and prompt[source]["class_type"], "picture")
        for file in shown.get("images", []):  # the host lists videos there, too
            kind = Path(file["filename"]).suffix
            word = name if kind == ".png" else "video"
            count[word] += 1
            path = folder / f"{word}_{count[word]:02}{kind}"
            path.write_bytes(client.view(file))
            written.append(path)
    return written


def show(options: argparse.Namespace, base: Path, checkpoint: str | None) -> int:
    workflows = base / "custom_nodes" / PACK / "workflows"
    shutil.copytree(ROOT / "workflows", workflows)
    path = workflows / f"{options.workflow}.json"
    workflow = json.loads(path.read_text(encoding="utf-8"))
    for node in workflow["nodes"]:
        if node["type"] == "CheckpointLoaderSimple":
            node["widgets_values"] = [checkpoint]
            node["properties"].pop("models", None)  # the published file is not the one in use
    path.write_text(json.dumps(workflow), encoding="utf-8")
    options.output.mkdir(parents=True, exist_ok=True)
    with start(base, options.output.resolve()) as server:
        address = f"{server.url}/?template={options.workflow}&source={PACK}"
        print(f"ComfyUI is at {address}")
        print(f"Images go to {options.output}. Ctrl-C stops.", flush=True)
        webbrowser.open(address)
        server.wait()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
