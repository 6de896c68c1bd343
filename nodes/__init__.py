"""What a user sees: the node declarations, one file a stage of the work."""

from comfy_api.latest import ComfyExtension, io


class StoryReelExtension(ComfyExtension):
    """The pack's nodes, in the order in which a story passes through them."""

    async def on_load(self) -> None:
        from ..host import storyworld

        storyworld.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from . import (
            attention,
            blending,
            captions,
            dynamicrafter,
            extend,
            frames,
            metrics,
            motion,
            motion_shots,
            motion_training,
            page,
            shots,
            story,
            storyworld,
            subtitles,
            video_metrics,
        )

        pictures = [*storyworld.NODES, *story.NODES, *captions.NODES, *frames.NODES, *attention.NODES, *page.NODES]
        films = [*dynamicrafter.NODES, *shots.NODES, *motion.NODES, *motion_shots.NODES, *motion_training.NODES]
        films += [*extend.NODES, *blending.NODES]
        return [*pictures, *films, *subtitles.NODES, *metrics.NODES, *video_metrics.NODES]
