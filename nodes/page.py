"""The comic page: a story's images laid out, with their captions."""

from comfy_api.latest import io

from ..core.story import fonts
from ..core.story.layout import LAYOUTS, check_width
from ..core.story.page import compose
from ..host.common import messages
from .node import PreflightNode
from .types import StoryType


class StoryReelComicPage(PreflightNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelComicPage",
            display_name="Comic Page (StoryReel)",
            category="StoryReel",
            description="Lays the images of a story out on comic pages with their captions.",
            search_aliases=["comic", "storyboard", "caption", "typesetting", "story page"],
            has_intermediate_output=True,  # so that what it says is there after a cached run, too
            inputs=[
                io.Image.Input("images", lazy=True, tooltip="One image for each frame of the story, in its order."),
                StoryType.Input("story", tooltip="The story whose captions are written into the panels."),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default="automatic",
                    tooltip="automatic: rows of different shapes for any number of images. four panel: pages of two "
                    "by two. classic: one page with rows of four and six, some images stacked at half size.",
                ),
                io.Combo.Input(
                    "font",
                    options=fonts.names(),
                    default=fonts.BUNDLED,
                    tooltip="The font of the captions. The bundled font has the letters of European languages, "
                    "Chinese, Japanese and Korean. The others are installed on the machine that runs ComfyUI. "
                    "Characters that a font lacks are drawn with another font.",
                ),
                io.Int.Input(
                    "panels_per_page",
                    default=0,
                    min=0,
                    max=64,
                    optional=True,
                    advanced=True,
                    tooltip="Only for the automatic layout: the most images on a page. 0 chooses a number up to 8.",
                ),
                io.Int.Input(
                    "page_width",
                    default=1536,
                    min=256,
                    max=8192,
                    step=8,
                    optional=True,
                    advanced=True,
                    tooltip="Only for the automatic layout: width of a page in pixels. The other layouts keep the "
                    "size of the images.",
                ),
                io.Int.Input(
                    "border",
                    default=10,
                    min=0,
                    max=200,
                    optional=True,
                    advanced=True,
                    tooltip="White border around each image in pixels. Two neighbors are twice as far apart.",
                ),
                io.Int.Input(
                    "caption_size",
                    default=0,
                    min=0,
                    max=400,
                    optional=True,
                    advanced=True,
                    tooltip="The largest font size of a caption in pixels. 0 chooses it for the page. A long "
                    "caption is "
                    "set smaller until it fits.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    optional=True,
                    advanced=True,
                    tooltip="Each seed gives another arrangement of the panels (automatic and classic).",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="pages", tooltip="The comic pages, one image each, in reading order."),
            ],
        )

    @classmethod
    def preflight(cls, layout, page_width=1536, border=10, **_) -> None:
        if layout == "automatic":
            check_width(page_width, border)

    @classmethod
    def execute(
        cls, images, story, layout, font, panels_per_page=0, page_width=1536, border=10, caption_size=0, seed=0
    ) -> io.NodeOutput:
        pages, remarks = compose(
            images,
            story.captions,
            layout,
            font,
            panels_per_page=panels_per_page,
            page_width=page_width,
            border=border,
            caption_size=caption_size,
            seed=seed,
        )
        for remark in remarks:
            messages.warn(remark)
        return io.NodeOutput(pages)


NODES = [StoryReelComicPage]
