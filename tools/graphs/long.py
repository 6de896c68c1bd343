"""A clip becomes a long video, and a long video a finer one: the graphs of StreamingT2V and StreamingSVD."""

from .parts import FIXED_SEED, HUGGING_FACE, Graph, Group, Node, file_name, load_checkpoint
from .shots import EXAMPLE, SD21, VAE

STREAMING_T2V = HUGGING_FACE + "PAIR/StreamingT2V/resolve/main/streaming_t2v.ckpt"
STREAMING_SVD = HUGGING_FACE + "PAIR/StreamingSVD/resolve/main/model.safetensors"
VID2VID = HUGGING_FACE + "camenduru/Video-to-Video/resolve/main/non_ema_0035000.pth"

CLIP = {"file": "example.mp4"}  # any clip of the user's input folder
LONG, FPS, SVD_FPS = "story/long", 8.0, 12.0
FRAMED = ("#3F789E", "#8A5A9E", "#A86432", "#7A7A3A", "#4E8A5A")
WALK = {
    "style": "(No style)",
    "characters": "[Ada] a girl in a yellow raincoat",
    "scenes": """\
[Ada] walks along a beach at dawn
[Ada] walks along a beach, gulls above her
[Ada] runs along a beach, waves behind her
[Ada] stands still and looks out at the sea""",
}


def load_streaming(address: str, box: tuple[int, int, int, int] = (420, 0, 360, 240)) -> Node:
    file = {"checkpoint": file_name(address)}
    return Node("StoryReelStreamingLoader", "Load StreamingT2V", box, file, ((address, "checkpoints"),))


def write(title: str, text: str, y: int, height: int, clip: tuple = ("1", 1), x: int = 840) -> Node:
    return Node("CLIPTextEncode", title, (x, y, 400, height), {"clip": clip, "text": text})


def extend(model: tuple, frames: tuple, x: int, sampler: str, sigmas: str, **told) -> Node:
    """Extend Video on the parts of node 1. It grows with every input, so nothing stands below it."""
    inputs = {"model": model, "vae": ("1", 2), "clip_vision": ("1", 3), "sampler": (sampler, 0), "sigmas": (sigmas, 0)}
    return Node(
        "StoryReelExtendVideo", "Extend Video", (x, 0, 360, 620), {**inputs, "frames": frames, **FIXED_SEED, **told}
    )


def sample_as_published(x: int, y: int) -> dict[str, Node]:
    """Nodes 11 and 12: DDIM with eta 1 over 50 steps, spaced as ModelScope's."""
    return {
        "11": Node("StoryReelDDIMSampler", "DDIM Sampler", (x, y, 340, 90)),
        "12": Node(
            "StoryReelDDIMSigmas", "DDIM Sigmas", (x, y + 260, 340, 110), {"model": ("1", 0), "spacing": "leading"}
        ),
    }


def save_video(video: str, x: int) -> Node:
    return Node("SaveVideo", "Save Video", (x, 0, 520, 480), {"video": (video, 0), "filename_prefix": LONG})


def framed(*nodes: tuple[str, ...]) -> tuple[Group, ...]:
    titles = ("Clip", "Model", "Prompts", "Sampling", "Long Video")
    return tuple(Group(*group) for group in zip(titles, FRAMED, nodes, strict=True) if group[2])


def text_to_long_video() -> Graph:
    drawing = {"model": ("1", 0), "positive": ("5", 0), "negative": ("6", 0), "latent_image": ("7", 0), **FIXED_SEED}
    drawing |= {"steps": 50, "cfg": 9.0, "sampler_name": "dpmpp_2m", "scheduler": "normal"}
    prompts = {"positive": ("5", 0), "negative": ("6", 0)}
    nodes = {
        "1": load_streaming(STREAMING_T2V, (0, 260, 360, 240)),
        "5": write("Prompt", "a surfer rides a wave, wide shot, sunset", 0, 150, x=420),
        "6": write("Negative Prompt", "", 260, 90, x=420),
        "7": Node(
            "EmptyLatentImage",
            "16 Frames",
            (880, 0, 330, 110),
            {"width": 256, "height": 256, "batch_size": 16},
        ),
        "8": Node("KSampler", "First Clip", (880, 220, 330, 312), drawing),
        "9": Node("VAEDecode", "VAE Decode", (880, 880, 330, 60), {"samples": ("8", 0), "vae": ("1", 2)}),
        **sample_as_published(420, 460),
        "13": extend(("1", 0), ("9", 0), 1270, "11", "12", **prompts, fps=FPS),
        "14": save_video("13", 1690),
    }
    note = """\
1. Say in **Prompt** what is to be seen. **Run** makes a first clip of 16 frames and adds 4 chunks of 8 new ones:
48 frames. *chunks* in **Extend Video** makes it any length.
2. Every chunk is on disk (output/story/long) before the next begins. Stopped or crashed? Press **Run** again.
3. The weights are ModelScope's at heart: not for commercial use (CC-BY-NC)."""
    groups = framed(("7", "8", "9"), ("1",), ("5", "6"), ("11", "12"), ("13", "14"))
    return Graph("streamingt2v_text_to_long_video", note, (0, -45, 360, 205), nodes, groups)


def extend_a_clip() -> Graph:
    x = 420
    nodes = {
        "1": load_streaming(STREAMING_T2V, (880, 0, 340, 240)),
        "2": Node("LoadVideo", "Load Clip", (0, 260, 360, 330), CLIP),
        "3": Node("GetVideoComponents", "Frames and Sound", (x, 0, 340, 110), {"video": ("2", 0)}),
        "4": Node(
            "ImageScale",
            "To 256 x 256",
            (x, 230, 340, 140),
            {"image": ("3", 0), "upscale_method": "bicubic", "width": 256, "height": 256, "crop": "center"},
        ),
        "5": Node(
            "CreateVideo",
            "Clip in That Size",
            (x, 490, 340, 110),
            {"images": ("4", 0), "audio": ("3", 1), "fps": ("3", 2)},
        ),
        "6": Node("StoryReelScript", "What Happens, a Line a Chunk", (0, 720, 760, 600), WALK),
        "7": Node("StoryReelEncodeStory", "Encode Story", (880, 400, 340, 80), {"clip": ("1", 1), "story": ("6", 0)}),
        **sample_as_published(880, 630),
        "13": extend(("1", 0), ("5", 0), 1290, "11", "12", positive=("7", 0), negative=("7", 1)),
        "14": save_video("13", 1710),
        "15": Node(
            "StoryReelMeasureVideo",
            "Measure Video",
            (1710, 600, 340, 480),
            {"video": ("13", 0), "chunk_length": 16, "overlap": 8, "first_frames": ("17", 2)},
        ),
        "17": Node("GetImageSize", "Frames of the Clip", (880, 1160, 340, 110), {"image": ("4", 0)}),
        "16": Node("PreviewImage", "Curves", (2110, 600, 420, 480), {"images": ("15", 1)}),
    }
    note = """\
1. Choose a clip of 8 frames or more in **Load Clip**, and write what happens next, one line a chunk; the last holds on.
2. **Run** adds 4 chunks of 8 frames. The clip's sound stays on its part.
3. Change line 3 and run again: the first two chunks are kept. Colours drift? **Measure Video** says how much; raise
*color_match*."""
    groups = framed(("2", "3", "4", "5"), ("1",), ("6",), ("7", "11", "12"), ("13", "14", "15", "16"))
    return Graph("streamingt2v_extend_a_clip", note, (0, -45, 360, 210), nodes, groups)


def image_to_long_video() -> Graph:
    # Without the published augmentation of .02 in the first clip: the host's node draws it anew every time, and a run
    # that was stopped would not be known again.
    size = {"width": 1024, "height": 576, "video_frames": 25, "fps": 7, "augmentation_level": 0.0}
    start = {"clip_vision": ("1", 3), "init_image": ("2", 0), "vae": ("1", 2)}
    drawing = {"model": ("4", 0), "positive": ("3", 0), "negative": ("3", 1), "latent_image": ("3", 2), **FIXED_SEED}
    drawing |= {"steps": 25, "cfg": 3.0, "sampler_name": "euler", "scheduler": "karras"}
    told = {"anchor": 6, "guidance": 3.0, "fps": SVD_FPS}
    nodes = {
        "1": load_streaming(STREAMING_SVD),
        "2": Node("LoadImage", "Picture", (0, 240, 360, 330), EXAMPLE),
        "3": Node("SVD_img2vid_Conditioning", "First Clip", (840, 0, 360, 240), {**start, **size}),
        "4": Node("VideoLinearCFGGuidance", "Guidance Grows", (420, 400, 360, 80), {"model": ("1", 0), "min_cfg": 1.5}),
        "8": Node("KSampler", "Sample First Clip", (840, 350, 360, 312), drawing),
        "9": Node("VAEDecode", "VAE Decode", (840, 1010, 360, 60), {"samples": ("8", 0), "vae": ("1", 2)}),
        "11": Node("KSamplerSelect", "Sampler", (420, 600, 360, 60), {"sampler_name": "euler"}),
        "12": Node("AlignYourStepsScheduler", "Noise Levels", (420, 780, 360, 110), {"model_type": "SVD", "steps": 30}),
        "13": extend(("4", 0), ("9", 0), 1260, "11", "12", **told),
        "14": save_video("13", 1680),
    }
    note = """\
1. Choose a picture of 16:9. **Run** brings it to life, 25 frames, and adds 4 chunks of 18 new ones.
2. Frame 6 of the first clip is the anchor of all chunks. No text is read.
3. Short of memory? Lower *video_frames* and *chunk_length*, or the size. The weights are for research only."""
    groups = framed(("3", "8", "9"), ("1", "4"), (), ("11", "12"), ("13", "14"))
    return Graph("streamingsvd_image_to_long_video", note, (0, -45, 360, 200), nodes, groups)


def refine() -> Graph:
    sampling = {"model": ("21", 0), "positive": ("5", 0), "negative": ("6", 0), "sampler": ("22", 0)}
    sampling |= {"sigmas": ("20", 1), "latent_image": ("10", 0), "cfg": 1.0, "noise_seed": FIXED_SEED["seed"]}
    sampling |= {"add_noise": True, "control_after_generate": "fixed"}
    nodes = {
        "1": load_streaming(VID2VID),
        "2": Node("LoadVideo", "Load Clip", (0, 240, 360, 330), CLIP),
        "3": Node("GetVideoComponents", "Frames and Sound", (0, 700, 360, 110), {"video": ("2", 0)}),
        "4": load_checkpoint(SD21, (420, 400, 360, 105), "Load Text Encoder"),
        "5": write("Prompt", "a surfer rides a wave, wide shot, sunset, high quality, detailed", 0, 150, ("4", 1)),
        "6": write("Negative Prompt", "blurry, low resolution, noise, watermark, text", 260, 90, ("4", 1)),
        "7": Node("VAELoader", "Load VAE", (420, 600, 360, 60), {"vae_name": file_name(VAE)}, ((VAE, "vae"),)),
        "9": Node(
            "ImageScale",
            "Upscale",
            (420, 780, 360, 140),
            {"image": ("3", 0), "upscale_method": "bicubic", "width": 720, "height": 720, "crop": "center"},
        ),
        "10": Node("VAEEncode", "VAE Encode", (840, 780, 400, 60), {"pixels": ("9", 0), "vae": ("7", 0)}),
        "20": Node("StoryReelRefineSigmas", "Refine Sigmas", (1300, 0, 340, 140), {"model": ("1", 0)}),
        "21": Node(
            "StoryReelRandomizedBlending",
            "Randomized Blending",
            (1300, 310, 340, 230),
            {"model": ("20", 0), **FIXED_SEED},
        ),
        "22": Node("KSamplerSelect", "Sampler", (1300, 700, 340, 60), {"sampler_name": "dpmpp_2m_sde"}),
        "23": Node("SamplerCustom", "Refine", (1700, 0, 340, 250), sampling),
        "24": Node("VAEDecode", "VAE Decode", (1700, 610, 340, 60), {"samples": ("23", 0), "vae": ("7", 0)}),
        "25": Node(
            "CreateVideo",
            "Create Video",
            (1700, 740, 340, 110),
            {"images": ("24", 0), "audio": ("3", 1), "fps": ("3", 2)},
        ),
        "26": save_video("25", 2110),
    }
    note = """\
1. Choose a long clip in **Load Clip**, and say in **Prompt** what it shows.
2. **Run** enlarges it and refines it in chunks of 24 frames that share 8: no seams, any length, any size.
3. With another video model: take *BasicScheduler* with denoise 0.3 in the place of **Refine Sigmas**."""
    groups = framed(("3",), ("1", "4", "7"), ("5", "6"), ("20", "21", "22"), ("23", "24", "25", "26"))
    return Graph("refine_with_randomized_blending", note, (0, -45, 360, 200), nodes, groups)


GRAPHS = (text_to_long_video(), extend_a_clip(), image_to_long_video(), refine())
