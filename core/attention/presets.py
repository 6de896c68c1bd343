"""Published ways to run Consistent Self-Attention, as values of the node's inputs.

low-vram is the program that StoryDiffusion's authors recommend, mask is their first program, paper is Algorithm 1 of
arXiv 2405.01434. The programs count steps (no sharing before step 1 or 5, the second probability from step 20); the
percents here equal these steps of a run of 50 steps.
"""

COMMON = {
    "sampling_rate": 0.5,
    "sampling_rate_fine": 0.5,
    "anchors": 0,
    "tile_size": 0,
    "tile_stride": 1,
    "start_percent": 0.0,
    "end_percent": 1.0,
    "layer_prob_early": 1.0,
    "layer_prob_late": 1.0,
    "layer_prob_switch": 0.4,
    "blocks": "auto",
    "dense_early_read": False,
    "include_self": False,
}

CODE = {"anchors": 4, "layer_prob_early": 0.7, "layer_prob_late": 0.9}

PRESETS = {
    "low-vram": {**COMMON, **CODE, "start_percent": 0.02},
    "mask": {**COMMON, **CODE, "start_percent": 0.10, "sampling_rate": 0.7, "sampling_rate_fine": 0.7},
    "paper": {**COMMON, "tile_size": 3, "include_self": True},
    "custom": COMMON,
}

# What "auto" is on a UNet.
UNET_BLOCKS = {"low-vram": "up", "mask": "up", "paper": "all", "custom": "up"}

# Values that define the algorithm, so that the preset does not offer them as inputs.
FIXED = {
    "low-vram": {"dense_early_read", "include_self"},
    "mask": {"include_self"},
    "paper": {"sampling_rate_fine", "dense_early_read", "include_self"},
    "custom": set(),
}
