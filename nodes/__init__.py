"""What a user sees: the node declarations, one file a stage of the work."""

from comfy_api.latest import ComfyExtension, io


class StoryReelExtension(ComfyExtension):
    """The pack's nodes, in the order in which a story passes through them."""

    async def on_load(self) -> None:
        from ..host.common.host_version import check_version

        check_version()
        from ..host import storyworld

        storyworld.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from . import (
            attention,
            attention_map,
            bank_images,
            bank_reader,
            banks,
            blending,
            captions,
            draw_story,
            dynamicrafter,
            extend,
            frame_parts,
            frame_retakes,
            frames,
            metrics,
            motion,
            motion_training,
            page,
            photos,
            record,
            references,
            regions,
            sampling,
            shot_parts,
            shots,
            story,
            storyworld,
            subtitles,
            video,
            video_metrics,
        )

        images = [*storyworld.NODES, *story.NODES, *photos.NODES, *captions.NODES, *frames.NODES]
        images += [*attention.NODES, *banks.NODES]
        images += [*record.NODES, *bank_images.NODES, *bank_reader.NODES, *regions.NODES]
        images += [*attention_map.NODES, *page.NODES]
        images += [*draw_story.NODES, *references.NODES, *frame_parts.NODES, *frame_retakes.NODES]
        clips = [*dynamicrafter.NODES, *sampling.NODES, *shots.NODES, *shot_parts.NODES]
        clips += [*motion.NODES, *motion_training.NODES]
        videos = [*extend.NODES, *blending.NODES, *video.NODES]
        return [*images, *clips, *videos, *subtitles.NODES, *metrics.NODES, *video_metrics.NODES]
