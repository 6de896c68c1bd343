"""Which frames of a story start from the same noise.

The published low-VRAM app seeds its generator anew for every frame that it reads, so all of them silently share one
initial noise; here that is a choice.
"""

from .story import Story

DIFFERENT = "different"
SAME = "same for all"
PER_CHARACTER = "same per character"
NOISE_POLICIES = (DIFFERENT, SAME, PER_CHARACTER)


def noise_indices(story: Story, policy: str) -> list[int]:
    """The number of the noise that each frame starts from, one of NOISE_POLICIES deciding.

    A frame that shares no noise keeps its own number, so it starts from the same noise under every policy but SAME.
    """
    if policy == SAME:
        return [0] * len(story.frames)
    first: dict[str, int] = {}
    indices = []
    for number, frame in enumerate(story.frames):
        if policy == PER_CHARACTER and frame.characters:
            number = first.setdefault(frame.characters[0], number)
        indices.append(number)
    return indices
