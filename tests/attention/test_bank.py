"""Record Characters and reading a bank, in the real host: a frame that reads a bank is the frame of one large batch."""

import pytest
from harness.bank_runs import differs, noise_of, rows

ANCHORS = ("A", "A")
TOLERANCE = 1e-4  # of whole runs: steps of a random network amplify the rounding of float32


@pytest.mark.parametrize("preset", ["low-vram", "custom"])
@pytest.mark.parametrize(("family", "width"), [("sd15_full", 768), ("sdxl_slim", 2048)])
def test_a_frame_that_reads_a_bank_is_the_frame_of_one_batch(
    host, probe, record, tiny_checkpoint, family, width, preset
):
    """One batch of two anchors and two later frames, against the anchors alone and then each later frame alone."""
    model, options = host.load_model(tiny_checkpoint(family)), {"preset": preset, "anchors": 2, "steps": 3}
    positive, negative = probe.conditioning(4, width, 1), probe.conditioning(1, width, 2)
    story = probe.story_of(*ANCHORS, "A", "A")
    sampling = {"steps": 3}
    together = probe.sample(
        probe.node(host, model, preset, story=story, anchors=2),
        positive, negative, noise_of(0, 1, 2, 3), **sampling,
    )  # fmt: skip
    anchors, bank = record(
        model, probe.story_of(*ANCHORS), conds=(rows(positive, 0, 1), negative), latent=noise_of(0, 1), **options
    )
    assert differs(anchors, together[:2]) <= TOLERANCE
    assert bank.finished and bank.characters == {"A"} and len(bank.images) == 2
    for frame in (2, 3):
        reader = probe.node(host, model, preset, story=probe.story_of("A"), bank=bank)
        alone = probe.sample(reader, rows(positive, frame), negative, noise_of(frame), **sampling)
        plain = probe.sample(model, rows(positive, frame), negative, noise_of(frame), **sampling)
        assert differs(alone[0], together[frame]) <= TOLERANCE
        assert differs(plain[0], together[frame]) > 1e-3
