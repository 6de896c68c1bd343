"""Sizes of a file of motion modules, its published version, and the places of its modules in a UNet."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...weights.refusal import check_bounds, sides

Shapes = Mapping[str, Sequence[int]]

HEADS = 8  # in every published file; the weights do not tell
TABLE = "transformer_blocks.0.attention_blocks.0.pos_encoder.pe"
WIDTH = "norm.weight"
MOST_LEVELS, MOST_MODULES = 8, 16  # levels of a side, modules of a level


@dataclass(frozen=True)
class MotionConfig:
    """Widths of the modules of each level, down and up, and of the one in the middle.

    frames: rows of the position table. whole_clip: whether the UNet was trained with group norms whose statistics all
    frames of a clip share.
    """

    down: tuple[tuple[int, ...], ...]
    up: tuple[tuple[int, ...], ...]
    middle: int | None
    frames: int
    whole_clip: bool = False
    heads: int = HEADS

    @property
    def version(self) -> str:
        return "v2" if self.middle else "v1" if self.whole_clip else "v3"

    @property
    def widths(self) -> dict[str, int]:
        """{prefix of a module's weights: its width}"""
        sides = {"down": self.down, "up": self.up}
        found = {
            f"{side}_blocks.{level}.motion_modules.{number}": width
            for side, levels in sides.items()
            for level, widths in enumerate(levels)
            for number, width in enumerate(widths)
        }
        return found | ({"mid_block.motion_modules.0": self.middle} if self.middle else {})

    @property
    def places(self) -> dict[str, tuple[str, int]]:
        """{prefix of a module's weights: ("input" | "middle" | "output", number of the block)} in the original layout.

        Within its block a module stands behind the residual block and the transformer, before what changes the size;
        in the middle before the second residual block.
        """
        input_blocks, output_blocks = 1, 0  # the first input block is a convolution
        found = {}
        for level, widths in enumerate(self.down):
            for number in range(len(widths)):
                found[f"down_blocks.{level}.motion_modules.{number}"] = ("input", input_blocks + number)
            input_blocks += len(widths) + 1  # one that halves the size
        for level, widths in enumerate(self.up):
            for number in range(len(widths)):
                found[f"up_blocks.{level}.motion_modules.{number}"] = ("output", output_blocks + number)
            output_blocks += len(widths)
        return found | ({"mid_block.motion_modules.0": ("middle", 0)} if self.middle else {})


def read_config(shapes: Shapes) -> MotionConfig:
    """The sizes from the shapes of the weights. Raises KeyError if they are not those of motion modules.

    Of the published files the first version alone has 24 rows of positions and no module in the middle, and the first
    alone was trained with norms over the whole clip.
    """

    def levels(side: str) -> tuple[tuple[int, ...], ...]:
        names = {tuple(key.split(".")[:4]) for key in shapes if key.startswith(f"{side}_blocks.")}
        counts = Counter(name[1] for name in names)
        most = max(counts.values(), default=1)
        check_bounds(levels=(len(counts), 1, MOST_LEVELS), modules_of_a_level=(most, 1, MOST_MODULES))
        return tuple(
            tuple(
                sides(shapes, f"{side}_blocks.{level}.motion_modules.{number}.temporal_transformer.{WIDTH}", 1)[0]
                for number in range(counts[str(level)])
            )
            for level in range(len(counts))
        )

    behind = f"mid_block.motion_modules.0.temporal_transformer.{WIDTH}"
    middle = sides(shapes, behind, 1) if behind in shapes else None
    frames = sides(shapes, f"down_blocks.0.motion_modules.0.temporal_transformer.{TABLE}", 3)[1]
    return MotionConfig(
        down=levels("down"),
        up=levels("up"),
        middle=None if middle is None else middle[0],
        frames=frames,
        whole_clip=middle is None and frames == 24,
    )
