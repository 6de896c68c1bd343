"""Link types that the host does not have."""

from comfy_api.latest import io

# An immutable core.story.story.Story.
StoryType = io.Custom("STORY")
