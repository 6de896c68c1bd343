"""Record Characters and reading a bank, in the real host: a frame that reads a bank is the frame of one large batch."""

import pytest
import torch

ANCHORS = ("A", "A")
TOLERANCE = 1e-4  # of whole runs: steps of a random network amplify the rounding of float32


@pytest.fixture
def record(host, probe):
    """Sample `images` with a model behind Consistent Self-Attention and Record Characters; (latents, bank)."""
    from storyreel.nodes.record import StoryReelRecordCharacters

    def record(model, story, *, width=768, conds=None, precision="fp32", max_gb=8.0, step_stride=1, **options):
        sampling = {name: options.pop(name) for name in ("steps", "cfg", "sampler", "seed") if name in options}
        latent = options.pop("latent", None) or probe.latent(len(story.frames))
        shared = probe.node(host, model, options.pop("preset", "low-vram"), story=story, **options)
        recorded, bank = StoryReelRecordCharacters.execute(
            model=shared, precision=precision, device="cpu", max_gb=max_gb, step_stride=step_stride
        ).result
        conds = conds or (probe.conditioning(len(story.frames), width, 1), probe.conditioning(1, width, 2))
        return probe.sample(recorded, *conds, latent, **sampling), bank

    return record


def rows(conditioning, *places):
    return [[cond[list(places)], {k: v[list(places)] for k, v in extras.items()}] for cond, extras in conditioning]


def noise_of(probe, *indices, **size):
    """Latents whose noise is that of these images of a batch."""
    return {**probe.latent(len(indices), **size), "batch_index": list(indices)}


def differs(ours, reference):
    return ((ours - reference).abs().max() / reference.abs().max()).item()


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
        positive, negative, noise_of(probe, 0, 1, 2, 3), **sampling,
    )  # fmt: skip
    anchors, bank = record(
        model, probe.story_of(*ANCHORS), conds=(rows(positive, 0, 1), negative), latent=noise_of(probe, 0, 1), **options
    )
    assert differs(anchors, together[:2]) <= TOLERANCE
    assert bank.finished and bank.characters == {"A"} and len(bank.images) == 2
    for frame in (2, 3):
        reader = probe.node(host, model, preset, story=probe.story_of("A"), bank=bank)
        alone = probe.sample(reader, rows(positive, frame), negative, noise_of(probe, frame), **sampling)
        plain = probe.sample(model, rows(positive, frame), negative, noise_of(probe, frame), **sampling)
        assert differs(alone[0], together[frame]) <= TOLERANCE
        assert differs(plain[0], together[frame]) > 1e-3


@pytest.fixture
def graph(tiny_checkpoint):
    """A graph in API form: two anchors are recorded, a third image reads them. Node ids say what a node does."""

    def graph(*, seed=1, text="[A] walks", size=64, read_after=True):
        def node(class_type, **inputs):
            return {"class_type": class_type, "inputs": inputs}

        script = {"characters": "[A] a hero", "style": "(No style)", "negative": "bad"}
        sampling = {"steps": 2, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
        attention = {"preset": "low-vram", "strength": 1.0, "seed": 0, "model": ["model", 0]}
        nodes = {
            "model": node("CheckpointLoaderSimple", ckpt_name=tiny_checkpoint("sd15_full").name),
            "anchor_story": node("StoryReelScript", scenes=f"{text}\n[A] sleeps", **script),
            "anchor_prompts": node("StoryReelEncodeStory", clip=["model", 1], story=["anchor_story", 0]),
            "anchor_latent": node(
                "StoryReelStoryLatent", story=["anchor_story", 0], width=size, height=size, noise="different"
            ),
            "share": node("StoryReelConsistentAttention", story=["anchor_story", 0], **attention),
            "record": node(
                "StoryReelRecordCharacters",
                model=["share", 0],
                precision="fp16",
                device="cpu",
                max_gb=8.0,
                step_stride=1,
            ),
            "draw_anchors": node(
                "KSampler",
                model=["record", 0],
                positive=["anchor_prompts", 0],
                negative=["anchor_prompts", 1],
                latent_image=["anchor_latent", 0],
                seed=seed,
                **sampling,
            ),
            "story": node("StoryReelScript", scenes="[A] laughs", **script),
            "prompts": node("StoryReelEncodeStory", clip=["model", 1], story=["story", 0]),
            "latent": node("StoryReelStoryLatent", story=["story", 0], width=size, height=size, noise="different"),
            "read": node("StoryReelConsistentAttention", story=["story", 0], bank=["record", 1], **attention),
            "draw": node(
                "KSampler",
                model=["read", 0],
                positive=["prompts", 0],
                negative=["prompts", 1],
                latent_image=["latent", 0],
                seed=7,
                **sampling,
            ),
            "save": node("SaveLatent", samples=["draw", 0], filename_prefix="bank/frame"),
        }
        return nodes

    return graph


def executed(run):
    return [data["node"] for event, data in run.events if event == "executing" and data.get("node")]


def drawn(run):
    return run.values["draw"][0]["samples"]


def test_a_reader_runs_after_its_writer_though_no_link_leads_there(host, graph):
    """Only the frame that reads is an output; the sampler that records is found by the reader."""
    run = host.run(graph())
    order = executed(run)
    assert order.index("draw_anchors") < order.index("draw")
    plain = graph()
    del plain["read"]["inputs"]["bank"]
    assert not torch.equal(drawn(run), drawn(host.run(plain)))


def test_a_change_before_the_writer_runs_the_reader_again(host, graph):
    """Nothing is drawn twice while nothing changed, and a bank of other anchors never stays in use."""
    first = host.run(graph(), cached=True)
    again = host.run(graph(), cached=True)
    assert not {"draw", "draw_anchors", "record"} & set(executed(again))
    changed = host.run(graph(seed=2), cached=True)
    assert {"draw", "draw_anchors", "record"} <= set(executed(changed))
    assert not torch.equal(drawn(changed), drawn(first))
    assert not torch.equal(drawn(host.run(graph(seed=2, text="[A] swims"), cached=True)), drawn(changed))
    assert torch.equal(drawn(host.run(graph(), cached=True)), drawn(first))


def test_a_bank_that_nothing_records_is_refused_before_sampling(host, graph):
    nodes = graph()
    del nodes["draw_anchors"]
    with pytest.raises(RuntimeError, match="no sampler has recorded into it: connect the MODEL of Record Characters"):
        host.run(nodes)


def test_a_model_that_records_and_reads_itself_is_refused(host, graph):
    """The only sampler of the recorded MODEL comes behind the reader: no order exists, and the message says so."""
    nodes = graph()
    nodes["read"]["inputs"]["model"] = ["record", 0]
    del nodes["draw_anchors"]
    with pytest.raises(RuntimeError, match="no sampler has recorded into it"):
        host.run(nodes)
