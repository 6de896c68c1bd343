"""Semantic motion: two pictures become a shot of SD1.5, and a predictor is trained on clips of one's own."""

from .parts import FIXED_SEED, HUGGING_FACE, SD15, Graph, Group, Node, file_name, load_checkpoint
from .shots import EXAMPLE, FPS, SHOTS, load_vision

IP_ADAPTER = HUGGING_FACE + "h94/IP-Adapter/resolve/main/models/ip-adapter-plus_sd15.safetensors"
MOTION_MODULE = HUGGING_FACE + "guoyww/animatediff/resolve/main/mm_sd_v15_v2.ckpt"
SIZE, FRAMES = 512, 16


def load_predictor(box: tuple[int, int, int, int]) -> Node:
    """None, for the tokens of IP-Adapter-Plus."""
    inputs = {"predictor": "none", "space": "IP-Adapter", "space.ip_adapter": file_name(IP_ADAPTER)}
    return Node("StoryReelMotionPredictorLoader", "Load Motion Predictor", box, inputs, ((IP_ADAPTER, "ipadapter"),))


def encoder(box: tuple[int, int, int, int]) -> Node:
    node = load_vision(0)
    return Node(node.type, node.title, box, node.inputs, node.models)


def picture(title: str, box: tuple[int, int, int, int]) -> Node:
    return Node("LoadImage", title, box, EXAMPLE)


def predict(title: str, box: tuple[int, int, int, int], predictor: str, start: str, end: str, vision: str) -> Node:
    inputs = {"predictor": (predictor, 0), "clip_vision": (vision, 0), "start": (start, 0), "end": (end, 0)}
    return Node("StoryReelPredictMotion", title, box, {**inputs, "frames": FRAMES})


def plot(motion: str, box: tuple[int, int, int, int]) -> Node:
    return Node("StoryReelMotionPlot", "Plot Motion", box, {"motion": (motion, 0)})


def preview(title: str, images: tuple[str, int], box: tuple[int, int, int, int]) -> Node:
    return Node("PreviewImage", title, box, {"images": images})


def two_pictures() -> Graph:
    following = {"model": ("1", 0), "motion": ("6", 0), "decoder": "IP-Adapter"}
    following |= {"decoder.motion_module": file_name(MOTION_MODULE), "decoder.ip_adapter": file_name(IP_ADAPTER)}
    files = (MOTION_MODULE, "animatediff_models"), (IP_ADAPTER, "ipadapter")
    sampling = {"steps": 25, "cfg": 7.5, "sampler_name": "ddim", "scheduler": "ddim_uniform", **FIXED_SEED}
    sampling |= {"model": ("9", 0), "positive": ("10", 0), "negative": ("11", 0), "latent_image": ("12", 0)}
    text = {"positive": "a girl turns her head and smiles", "negative": "worst quality, blurry, watermark"}
    size = {"width": SIZE, "height": SIZE, "batch_size": FRAMES}
    nodes = {
        "1": load_checkpoint(SD15, (420, 540, 360, 105)),
        "2": load_predictor((420, 0, 360, 180)),
        "3": encoder((420, 340, 360, 60)),
        "4": picture("First Picture", (0, 240, 360, 330)),
        "5": picture("Last Picture", (0, 690, 360, 330)),
        "6": predict("Predict Motion", (840, 0, 360, 380), "2", "4", "5", "3"),
        "7": plot("6", (1260, 0, 360, 60)),
        "8": preview("Motion", ("7", 0), (1680, 0, 520, 300)),
        "9": Node("StoryReelApplyMotion", "Apply Motion", (1260, 210, 360, 240), following, files),
        "10": Node("CLIPTextEncode", "Prompt", (840, 530, 360, 120), {"clip": ("1", 1), "text": text["positive"]}),
        "11": Node(
            "CLIPTextEncode", "Negative Prompt", (840, 760, 360, 120), {"clip": ("1", 1), "text": text["negative"]}
        ),
        "12": Node("EmptyLatentImage", "Frames", (840, 990, 360, 130), size),
        "13": Node("KSampler", "Sample", (1260, 600, 360, 312), sampling),
        "14": Node("VAEDecode", "VAE Decode", (1260, 1260, 360, 60), {"samples": ("13", 0), "vae": ("1", 2)}),
        "15": Node("CreateVideo", "Create Video", (1680, 420, 520, 110), {"images": ("14", 0), "fps": FPS}),
        "16": Node("SaveVideo", "Save Video", (1680, 640, 520, 620), {"video": ("15", 0), "filename_prefix": SHOTS}),
    }
    note = """\
1. Choose two pictures, and say in **Prompt** what is seen.
2. Press **Run**: 16 frames of SD1.5 on the way from the first to the last.
3. Nobody published weights of StoryDiffusion's predictor. With *none* the tokens are interpolated, untrained; choose a
file that you trained with `semantic_motion_train`."""
    groups = (
        Group("Pictures", "#3F789E", ("4", "5")),
        Group("Models", "#8A5A9E", ("1", "2", "3")),
        Group("Shot", "#A86432", ("6", "10", "11", "12")),
        Group("Sampling", "#7A7A3A", ("7", "9", "13", "14")),
        Group("Video", "#4E8A5A", ("8", "15", "16")),
    )
    return Graph("semantic_motion_two_pictures", note, (0, -45, 360, 200), nodes, groups, shows_run=True)


def train() -> Graph:
    training = {"predictor": ("1", 0), "clip_vision": ("2", 0), "frames": FRAMES, **FIXED_SEED}
    nodes = {
        "1": load_predictor((420, 0, 360, 180)),
        "2": encoder((420, 340, 360, 60)),
        "3": Node("StoryReelTrainMotionPredictor", "Train Motion Predictor", (840, 0, 380, 760), training),
        "4": Node("PreviewAny", "Report", (1280, 0, 360, 180), {"source": ("3", 1)}),
        "5": preview("Curve", ("3", 2), (1280, 290, 520, 300)),
        "6": picture("One Picture", (0, 960, 360, 330)),
        "7": picture("Another Picture", (420, 960, 360, 330)),
        "8": predict("There", (840, 960, 380, 380), "3", "6", "7", "2"),
        "9": predict("And Back", (1280, 960, 380, 380), "3", "7", "6", "2"),
        "10": Node(
            "StoryReelSpliceMotions", "Concat Motion", (1720, 960, 360, 110), {"first": ("8", 0), "second": ("9", 0)}
        ),
        "11": plot("10", (1720, 1220, 360, 60)),
        "12": preview("What It Learnt", ("11", 0), (2140, 960, 520, 300)),
    }
    note = """\
1. Put videos into ComfyUI's `input/clips`, one shot each, hundreds or more, and press **Run**. Stopped? Press **Run**
again: it goes on.
2. **Report** says whether the predictor beats interpolation on clips that it did not see. The file is in
`models/semantic_motion`: yours to use in `semantic_motion_two_pictures`, and to share.
3. Few clips? Less *width* and *depth*."""
    groups = (
        Group("Models", "#8A5A9E", ("1", "2")),
        Group("Training", "#A86432", ("3", "4", "5")),
        Group("What It Learnt", "#4E8A5A", ("6", "7", "8", "9", "10", "11", "12")),
    )
    return Graph("semantic_motion_train", note, (0, -45, 360, 300), nodes, groups, shows_run=True)


GRAPHS = (two_pictures(), train())
