"""The shipped workflows, and how a test runs one in seconds: tiny models, two steps, small pictures, short clips."""

import io
import json
from pathlib import Path

import av
from PIL import Image

from .pictures import CLIP_FRAMES, CLIP_RATE

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
if not NAMES:
    raise FileNotFoundError(f"there is no workflow in {FOLDER}")  # else a test of every workflow would test nothing

FRAMES, WIDTH, HEIGHT, STEPS = 2, 64, 96, 2
SHOT = dict(width=64, height=64, frames=4)
LONG = dict(chunks=2, chunk_length=4, overlap=2)
LONG_WAN = dict(chunks=2, chunk_length=5, overlap=1)  # of 4k + 1 frames
STAND_INS = {  # of a published file: folder of the host's models, and file
    "v1-5-pruned-emaonly-fp16.safetensors": ("checkpoints", "sd15.ckpt"),
    "sd_xl_base_1.0.safetensors": ("checkpoints", "sdxl.ckpt"),
    "v2-1_512-ema-pruned.safetensors": ("checkpoints", "sd15.ckpt"),  # a text encoder of a third of the work
    "dynamicrafter_1024_fp16_pruned.safetensors": ("checkpoints", "dynamicrafter_1024_stand_in.ckpt"),
    "dynamicrafter_unet_512_interp.safetensors": ("checkpoints", "dynamicrafter_512_interp_stand_in.ckpt"),
    "tooncrafter_512_interp-pruned-fp16.safetensors": ("checkpoints", "tooncrafter_stand_in.ckpt"),
    "streaming_t2v.ckpt": ("checkpoints", "streaming_t2v_stand_in.ckpt"),
    "model.safetensors": ("checkpoints", "streaming_svd_stand_in.ckpt"),
    "non_ema_0035000.pth": ("checkpoints", "vid2vid_stand_in.ckpt"),
    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors": ("clip_vision", "vit_l.ckpt"),
    "vae-ft-mse-840000-ema-pruned.safetensors": ("vae", "vae.ckpt"),
    "flux-2-klein-4b.safetensors": ("diffusion_models", "flux2_klein.ckpt"),
    "qwen_image_fp8_e4m3fn.safetensors": ("diffusion_models", "qwen_image.ckpt"),
    "z_image_turbo_bf16.safetensors": ("diffusion_models", "z_image.ckpt"),
    "qwen_3_4b.safetensors": ("text_encoders", "qwen3_4b.ckpt"),
    "qwen_2.5_vl_7b_fp8_scaled.safetensors": ("text_encoders", "qwen25_7b.ckpt"),
    "flux2-vae.safetensors": ("vae", "flux2_vae.ckpt"),
    "ae.safetensors": ("vae", "flux_vae.ckpt"),
    "qwen_image_vae.safetensors": ("vae", "wan_vae.ckpt"),
    "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors": ("diffusion_models", "wan22_high_noise.ckpt"),
    "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors": ("diffusion_models", "wan22_low_noise.ckpt"),
    "wan2.1_vace_14B_fp16.safetensors": ("diffusion_models", "wan_vace.ckpt"),
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors": ("text_encoders", "umt5_xxl.ckpt"),
    "wan_2.1_vae.safetensors": ("vae", "wan_vae.ckpt"),
    "mm_sd_v15_v2.ckpt": ("animatediff_models", "mm_v2.ckpt"),
    "ip-adapter-plus_sd15.safetensors": ("ipadapter", "ip_plus.ckpt"),
    "photomaker-v1.bin": ("photomaker", "photomaker.ckpt"),
}
LOADERS = {  # and the input that names a file
    "CheckpointLoaderSimple": "ckpt_name",
    "CLIPLoader": "clip_name",
    "CLIPVisionLoader": "clip_name",
    "PhotoMakerLoader": "photomaker_model_name",
    "UNETLoader": "unet_name",
    "VAELoader": "vae_name",
    "StoryReelDynamiCrafterLoader": "checkpoint",
    "StoryReelStreamingLoader": "checkpoint",
}
VIDEO_MAKERS = ("CreateVideo", "StoryReelJoinClips", "StoryReelAnimateStory", "StoryReelExtendVideo")
NEVER = 2  # the frontend's mode of a node that is muted
SAMPLERS = ("KSampler", "SamplerCustom", "SamplerCustomAdvanced")


def write_stand_ins(models: Path):
    """Put every stand-in into the host's folders."""
    from . import dynamicrafter, streaming, tiny, transformer_files

    for folder, file in STAND_INS.values():
        name, write = Path(file).stem, tiny.write
        if name in transformer_files.FILES:
            write = transformer_files.write
        elif name.endswith("_stand_in"):
            crafted = name.startswith(("dynamicrafter", "tooncrafter"))
            write = dynamicrafter.write_for_workflows if crafted else streaming.write_for_workflows
        write(name, models / folder)


def workflow(name: str) -> dict:
    """The graph as the frontend saved it."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def prompt(name: str) -> dict:
    """The graph in API form."""
    return json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))


def prompt_of(graph: dict) -> dict:
    """A saved graph in API form, without a frontend and titles. Nodes that are muted are left out."""
    active = {node["id"]: node for node in graph["nodes"] if node["type"] != "MarkdownNote" and node["mode"] != NEVER}
    links = {number: [str(source), output] for number, source, output, *_ in graph["links"] if source in active}
    return {
        str(id): {"class_type": node["type"], "inputs": _widget_values(node) | _linked(node, links)}
        for id, node in active.items()
    }


def _linked(node: dict, links: dict[int, list]) -> dict:
    return {entry["name"]: links[entry["link"]] for entry in node["inputs"] if entry["link"] in links}


def _widget_values(node: dict) -> dict:
    """{input: value} of the widgets. The values of a file are in the order of the widgets; most seeds are followed by
    what happens to them after a run."""
    names = [entry["name"] for entry in node["inputs"] if "widget" in entry]
    values = list(node.get("widgets_values", []))
    for place, name in enumerate(names):
        if name in ("seed", "noise_seed") and values[place + 1 : place + 2] == ["fixed"]:
            values.pop(place + 1)
    return {name: value for name, value in zip(names, values, strict=True) if name != "upload"}


def missing_nodes(frontend) -> list[str]:
    """Types in the open graph, subgraphs included, that no loaded pack offers."""
    return frontend.page.evaluate(
        """() => {
          const graphs = [app.graph, ...(app.graph.subgraphs?.values() ?? [])];
          const types = graphs.flatMap(graph => graph.nodes.map(node => node.type));
          return types.filter(type => !LiteGraph.registered_node_types[type]);
        }"""
    )


def models(name: str) -> list[dict]:
    """The published files that a graph asks for, as the frontend's properties name them. What is muted is not asked."""
    active = (node for node in workflow(name)["nodes"] if node.get("mode") != NEVER)
    return [model for node in active for model in node["properties"].get("models", [])]


def find(prompt: dict, class_type: str) -> str:
    """The id of the only node of this type."""
    (node,) = find_all(prompt, class_type)
    return node


def find_all(prompt: dict, class_type: str) -> list[str]:
    """The ids of the nodes of this type."""
    return [id for id, node in prompt.items() if node["class_type"] == class_type]


def samplers(prompt: dict) -> list[str]:
    """The ids of the nodes that sample."""
    return [id for kind in SAMPLERS for id in find_all(prompt, kind)]


def shown(prompt: dict) -> dict[str, int]:
    """{node id: pictures that it shows when the workflow is small}: one of a page, a plot or a video, else one a
    frame."""
    single = (
        "StoryReelAttentionMap",
        "StoryReelComicPage",
        "StoryReelMeasureStory",
        "StoryReelMeasureVideo",
        "StoryReelMotionPlot",
        "StoryReelTrainMotionPredictor",
    )
    pictures = {
        id: 1 if prompt[prompt[id]["inputs"]["images"][0]]["class_type"] in single else FRAMES
        for kind in ("SaveImage", "PreviewImage")
        for id in find_all(prompt, kind)
    }
    return pictures | {id: 1 for id in find_all(prompt, "SaveVideo")}


def shot_frames(prompt: dict) -> int:
    """Frames of a small shot of Animate Story: Wan makes 4k + 1."""
    wan = any("low_noise_model" in prompt[id]["inputs"] for id in find_all(prompt, "StoryReelAnimateStory"))
    return SHOT["frames"] + wan


def saved_video(prompt: dict) -> tuple[int, float]:
    """(frames, frames a second) of the video that a small workflow saves."""
    first = CLIP_FRAMES if find_all(prompt, "LoadVideo") else shot_frames(prompt)
    if any(prompt[id]["inputs"]["mode"] == "animate" for id in find_all(prompt, "StoryReelAnimateStory")):
        first *= FRAMES  # a shot of every picture, not from each to the next
    makers = [id for kind in VIDEO_MAKERS for id in find_all(prompt, kind)]
    rates = [rate for id in makers if isinstance(rate := prompt[id]["inputs"]["fps"], (int, float))]
    if find_all(prompt, "StoryReelExtendVideo"):
        long = long_of(prompt)
        first += long["chunks"] * (long["chunk_length"] - long["overlap"])
    return first - any(node["inputs"].get("loop") for node in prompt.values()), rates[-1] if rates else CLIP_RATE


def long_of(prompt: dict) -> dict[str, int]:
    """The lengths of a small long video."""
    return LONG_WAN if find_all(prompt, "ModelSamplingSD3") else LONG


def images_of(client, output: dict) -> list[Image.Image]:
    """What a node shows, as it comes through /view."""
    return [Image.open(io.BytesIO(client.view(image))) for image in output["images"]]


def frames_of(client, output: dict, rate: float) -> list[Image.Image]:
    """The frames of the video that a node saved, `rate` a second."""
    (video,) = output["images"]
    with av.open(io.BytesIO(client.view(video))) as container:
        assert container.streams.video[0].codec.name == "h264" and video["filename"].endswith(".mp4")
        assert container.streams.video[0].average_rate == rate
        return [frame.to_image() for frame in container.decode(video=0)]


def seed_of(name: str) -> int:
    """A seed of its own for every workflow: some have the same story, and the host remembers."""
    return 1000 + NAMES.index(name)


def stand_ins(inputs: dict) -> dict[str, str]:
    """{input: stand-in} of a node's inputs that name a published file."""
    files = {name: value for name, value in inputs.items() if str(value) in STAND_INS}
    return {name: STAND_INS[value][1] for name, value in files.items()}


def small(prompt: dict, seed: int) -> dict[str, dict]:
    """{node id: {input: value}} that make a workflow small; with another seed the host has nothing in its cache."""
    changes = {}
    for id, node in prompt.items():
        kind, inputs = node["class_type"], node["inputs"]
        if kind in LOADERS:
            name = inputs[LOADERS[kind]]
            changes[id] = {LOADERS[kind]: STAND_INS.get(name, (None, name))[1]}  # the toy's own stands for itself
        match kind:
            case "StoryReelScript":
                changes[id] = {"scenes": "\n".join(inputs["scenes"].splitlines()[:FRAMES])}
            case "StoryReelCaptions":
                changes[id] = {"captions": "\n".join(inputs["captions"].splitlines()[:FRAMES])}
            case "StoryReelStoryLatent":
                changes[id] = {"width": WIDTH, "height": HEIGHT}
            case "StoryReelDrawStory":
                changes[id] = {"width": WIDTH, "height": HEIGHT, "steps": STEPS, "seed": seed, "frames": ""}
            case "KSampler":
                changes[id] = {"steps": STEPS, "seed": seed}
            case "StoryReelMotionPredictorLoader" | "StoryReelApplyMotion":
                changes[id] = stand_ins(inputs)
            case "StoryReelAnimateStoryByMotion":
                changes[id] = {**stand_ins(inputs), **SHOT, "steps": STEPS, "seed": seed}
            case "StoryReelPredictMotion":
                changes[id] = {"frames": SHOT["frames"]}
            case "StoryReelTrainMotionPredictor":
                sizes = {"frames": SHOT["frames"], "width": 64, "depth": 1}
                changes[id] = {**sizes, "steps": STEPS, "seed": seed, "name": f"small_{seed}"}
            case "StoryReelDynamiCrafterConditioning":
                changes[id] = SHOT
            case "StoryReelDDIMSigmas":
                changes[id] = {"steps": STEPS}
            case "RandomNoise":
                changes[id] = {"noise_seed": seed}
            case "Flux2Scheduler":
                changes[id] = {"steps": STEPS, "width": WIDTH, "height": HEIGHT}
            case "EmptyLatentImage":
                changes[id] = {"width": 64, "height": 64, "batch_size": SHOT["frames"]}
            case "ImageScale":
                changes[id] = {"width": 64, "height": 64}
            case "SVD_img2vid_Conditioning":
                changes[id] = {"width": 64, "height": 64, "video_frames": SHOT["frames"]}
            case "AlignYourStepsScheduler" | "BasicScheduler" | "StoryReelRefineSigmas":
                changes[id] = {"steps": STEPS}
            case "StoryReelRandomizedBlending":
                changes[id] = {"chunk_length": 3, "overlap": 1}
            case "SamplerCustom":
                changes[id] = {"noise_seed": seed}
            case "StoryReelExtendVideo":
                changes[id] = {
                    **long_of(prompt),
                    "anchor": 0,
                    "seed": seed,
                    "switch_step": min(inputs["switch_step"], 1),
                }
            case "StoryReelMeasureVideo":
                changes[id] = {"chunk_length": LONG["chunk_length"], "overlap": LONG["overlap"]}
            case "StoryReelAnimateStory":
                changes[id] = {**SHOT, "frames": shot_frames(prompt), "seed": seed}
    return changes


def small_prompt(name: str, seed: int) -> dict:
    """The workflow in API form, small."""
    whole = prompt(name)
    for id, inputs in small(whole, seed).items():
        whole[id]["inputs"].update(inputs)
    return whole
