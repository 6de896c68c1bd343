"""ComfyUI-StoryReel: a written story becomes consistent pictures inside the user's own graph.

The host imports this folder as one package and asks it for its nodes; nothing happens before that.
"""

WEB_DIRECTORY = "./js"


async def comfy_entrypoint():
    from .nodes import StoryReelExtension

    return StoryReelExtension()
