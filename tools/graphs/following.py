"""A story's shots along predicted motion, in the chain from a story to a long film: the other way to make them.

StoryDiffusion's second half: image tokens of every frame between two pictures are predicted, and the model that drew
the pictures draws these frames, too, each of them looking at its tokens.
"""

from dataclasses import dataclass

from .films import TOP
from .motion import FRAMES, IP_ADAPTER, MOTION_MODULE
from .parts import FIXED_SEED, Node, file_name
from .shots import FPS

ROW = TOP + 760  # where these nodes are
BY_MOTION = "Semantic Motion"
CHOICE = f"""\
**Shots** are DynamiCrafter's. By StoryDiffusion's second half instead: right-click on the title of the group
**{BY_MOTION}**, *Set Group Nodes to Always*. Without DynamiCrafter's file, also mute **Animate Story** (Ctrl+M)."""


@dataclass(frozen=True)
class Motion:
    """What makes shots along predicted motion. predictor: "none" interpolates, untrained. adapter, module: of
    IP-Adapter and of motion modules, the address of a file or its name. size: of the shots. sampling: what KSampler is
    told. schedule: of noise. domain_adapter: whether the modules are the included demo model's, trained with one."""

    predictor: str
    adapter: str
    module: str
    size: tuple[int, int]
    sampling: dict
    schedule: str = "AnimateDiff's"
    domain_adapter: bool = False

    def files(self, **addresses: str) -> tuple[tuple[str, str], ...]:
        """What a node needs of what is published: (address, folder)."""
        return tuple((address, folder) for folder, address in addresses.items() if "/" in address)


def follow(motion: Motion, vision: tuple) -> dict[str, Node]:
    """Nodes 60 and 61, muted: a shot from each picture to the next, by the picture model of node 1 along predicted
    image tokens. And 62, that model with its domain adapter, if it has one: it knows frames of clips."""
    adapter, module = file_name(motion.adapter), file_name(motion.module)
    space = {"predictor": motion.predictor, "space": "IP-Adapter", "space.ip_adapter": adapter}
    decoder = {"motion_module": module, "ip_adapter": adapter, "noise_schedule": motion.schedule}
    adapted = ("62", 0) if motion.domain_adapter else ("1", 0)
    told = {"model": adapted, "predictor": ("60", 0), "clip_vision": vision, "vae": ("1", 2)}
    told |= {"positive": ("3", 0), "negative": ("3", 1), "keyframes": ("7", 0), "decoder": "IP-Adapter"}
    told |= {f"decoder.{name}": value for name, value in decoder.items()}
    told |= {"width": motion.size[0], "height": motion.size[1], "frames": FRAMES, "fps": FPS}
    told |= {**FIXED_SEED, **motion.sampling}
    loader, tokens = "StoryReelMotionPredictorLoader", motion.files(ipadapter=motion.adapter)
    both = motion.files(animatediff_models=motion.module, ipadapter=motion.adapter)
    shots = "StoryReelAnimateStoryByMotion"
    nodes = {
        "60": Node(loader, "Load Motion Predictor", (1145, ROW, 500, 180), space, tokens, muted=True),
        "61": Node(shots, "Animate Story by Motion", (1720, ROW, 360, 620), told, both, muted=True),
    }
    if motion.domain_adapter:
        box, adapted = (1145, ROW + 330, 500, 170), {"domain_adapter": True}
        nodes["62"] = Node("StoryReelLoadStoryworld", "Load Storyworld for Clips", box, adapted, muted=True)
    return nodes


ALONG_TOKENS = Motion(
    "none",
    IP_ADAPTER,
    MOTION_MODULE,
    (768, 480),
    {"steps": 25, "cfg": 7.5, "sampler_name": "ddim", "scheduler": "ddim_uniform"},
)
TOY_ADAPTER, TOY_MODULE, TOY_PREDICTOR = (
    f"storyworld_{part}.safetensors" for part in ("ip_adapter", "motion_module", "predictor")
)
# As tools/measure_motion.py decodes with it: the toy's modules were trained under its own noise schedule.
TOY_MOTION = Motion(
    TOY_PREDICTOR,
    TOY_ADAPTER,
    TOY_MODULE,
    (128, 128),
    {"steps": 16, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"},
    "the model's",
    domain_adapter=True,
)
