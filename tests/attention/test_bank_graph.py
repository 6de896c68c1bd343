"""A bank in a graph: readers run behind the samplers that record it, whatever the graph looks like."""

from copy import deepcopy

import pytest
import torch


@pytest.fixture
def graph(tiny_checkpoint):
    """A new graph in API form: two anchors are recorded, a third image reads them. Node ids say what a node does."""

    def graph(*, seed=1, text="[A] walks", size=64, read_after=True):
        def node(class_type, **inputs):
            return {"class_type": class_type, "inputs": inputs}

        script = {"characters": "[A] a hero", "style": "(No style)", "negative": "bad"}
        sampling = {"steps": 2, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
        attention = {"preset": "low-vram", "strength": 1.0, "seed": 0, "model": ["model", 0]}
        nodes = {
            "model": node("CheckpointLoaderSimple", ckpt_name=tiny_checkpoint("sd15").name),
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


def link(nodes, id, class_type, **inputs):
    nodes[id] = {"class_type": class_type, "inputs": inputs}
    return [id, 0]


def custom_sampling(nodes, name, **changed):
    """The sampler `name`, a KSampler, by the host's nodes for custom sampling."""
    old = nodes[name]["inputs"]
    schedule = link(
        nodes, f"{name}_sigmas", "BasicScheduler", model=old["model"], scheduler="normal", steps=2, denoise=1.0
    )
    nodes[name] = {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {
            "noise": link(nodes, f"{name}_noise", "RandomNoise", noise_seed=old["seed"]),
            "guider": link(
                nodes, f"{name}_guider", "CFGGuider", cfg=5.0, **{k: old[k] for k in ("model", "positive", "negative")}
            ),
            "sampler": link(nodes, f"{name}_sampler", "KSamplerSelect", sampler_name="euler"),
            "sigmas": schedule,
            "latent_image": old["latent_image"],
        },
    }


def advanced(nodes, split, leftover=True):
    """The anchors by two advanced samplers, of which the second ends what the first one began."""
    old = nodes["draw_anchors"]["inputs"]
    shared = {k: old[k] for k in ("model", "positive", "negative", "cfg", "sampler_name", "scheduler")}
    shared |= dict(noise_seed=old["seed"], steps=4)
    begin = link(
        nodes, "begin", "KSamplerAdvanced", **shared, add_noise="enable", latent_image=old["latent_image"],
        start_at_step=0, end_at_step=split, return_with_leftover_noise="enable",
    )  # fmt: skip
    link(
        nodes, "draw_anchors", "KSamplerAdvanced", **shared, add_noise="disable", latent_image=begin,
        start_at_step=split, end_at_step=10, return_with_leftover_noise="disable",
    )  # fmt: skip


def test_custom_sampling_before_and_behind(host, graph):
    nodes, plain = graph(), drawn(host.run(graph()))
    custom_sampling(nodes, "draw")
    custom_sampling(nodes, "draw_anchors")
    run = host.run(nodes)
    order = executed(run)
    assert order.index("draw_anchors") < order.index("draw") and torch.equal(drawn(run), plain)


def test_a_patch_behind_the_recording(host, graph):
    nodes, plain = graph(), drawn(host.run(graph()))
    rescaled = link(nodes, "rescale", "RescaleCFG", model=["record", 0], multiplier=0.7)
    nodes["draw_anchors"]["inputs"]["model"] = rescaled
    assert not torch.equal(drawn(host.run(nodes)), plain)


@pytest.mark.parametrize("split", [1, 2])
def test_two_samplers_of_one_run_are_both_waited_for(host, graph, split):
    """The reader comes before all others in the host's order, and waits for the second half of the run, too."""
    nodes = graph()
    advanced(nodes, split)
    link(nodes, "first", "SaveLatent", samples=["begin", 0], filename_prefix="bank/begin")
    run = host.run({**nodes, "read": nodes["read"]})
    order = executed(run)
    assert order.index("begin") < order.index("draw_anchors") < order.index("draw")
    (recording,) = run.values["record"][1].recordings
    whole = graph()
    whole["draw_anchors"]["inputs"]["steps"] = 4
    run_of_one = host.run(whole)
    (expected,) = run_of_one.values["record"][1].recordings
    assert recording.layers == expected.layers and recording.origin.sigmas == expected.origin.sigmas
    torch.testing.assert_close(drawn(run), drawn(run_of_one), rtol=0, atol=2e-3 * drawn(run).abs().max().item())


def test_an_interrupted_second_half_leaves_the_first_and_records_the_rest_later(host, graph):
    nodes = graph(seed=11)
    advanced(nodes, 2)
    whole = drawn(host.run(nodes))
    assert torch.equal(drawn(interrupted_once(host, nodes, "draw_anchors")), whole)


def test_the_run_after_an_interrupted_one(host, graph):
    nodes = graph(seed=12)
    whole = drawn(host.run(nodes))
    assert torch.equal(drawn(interrupted_once(host, nodes, "draw_anchors")), whole)


def interrupted_once(host, nodes, node):
    """Run with the host's cache: once interrupted at the second step of a sampler, and again."""
    running = []

    class Events(list):
        def append(self, entry):
            super().append(entry)
            event, data = entry
            if event == "executing":
                running.append(data.get("node"))
            elif event == "progress" and running[-1:] == [node] and data["value"] == 1:
                host.interrupt()

    events, host.events = host.events, Events()
    try:
        with pytest.raises(InterruptedError):
            host.run(deepcopy(nodes), cached=True)
    finally:
        host.events = events
    return host.run(deepcopy(nodes), cached=True)


def test_several_readers_and_one_in_an_output_node(host, graph):
    """Readers before and after the writer in the host's order; Save Bank and Merge Banks are two of them."""
    nodes, alone = {}, drawn(host.run(graph()))
    link(nodes, "a_save", "StoryReelSaveBank", bank=["record", 1], name="graph_test")
    nodes |= graph()
    link(nodes, "merge", "StoryReelMergeBanks", **{"banks.bank_1": ["record", 1], "banks.bank_2": ["a_save", 0]})
    for name in ("read", "draw", "save"):
        nodes[f"{name}_2"] = {**nodes[name], "inputs": dict(nodes[name]["inputs"])}
    nodes["read_2"]["inputs"]["bank"] = ["merge", 0]
    nodes["draw_2"]["inputs"]["model"] = ["read_2", 0]
    nodes["save_2"]["inputs"]["samples"] = ["draw_2", 0]
    run = host.run(nodes)
    assert executed(run).count("draw_anchors") == 1
    assert torch.equal(drawn(run), alone) and torch.equal(run.values["draw_2"][0]["samples"], alone)


class Source:
    """A node of another pack whose output always changes."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "run", ("CONDITIONING",)
    strength = 1.0

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"conditioning": ("CONDITIONING",)}}

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")

    def run(self, conditioning):
        return ([[cond * self.strength, extras] for cond, extras in conditioning],)


def test_a_prompt_that_always_changes_is_recorded_anew(host, graph, monkeypatch):
    """The sampler that records runs again though neither it nor Record Characters changed."""
    nodes = graph()
    nodes["draw_anchors"]["inputs"]["positive"] = link(nodes, "changes", "Source", conditioning=["anchor_prompts", 0])
    with host.node(Source):
        first = drawn(host.run(deepcopy(nodes), cached=True))
        monkeypatch.setattr(Source, "strength", 0.5)
        second = drawn(host.run(deepcopy(nodes), cached=True))
        assert not torch.equal(first, second) and torch.equal(second, drawn(host.run(nodes)))


class Twice:
    """A node of another pack whose output is a list."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_IS_LIST = "tests", "run", ("LATENT",), (True,)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latent": ("LATENT",)}}

    def run(self, latent):
        return ([latent, {**latent, "batch_index": [5, 6]}],)


def test_a_sampler_that_the_host_calls_for_each_entry_of_a_list(host, graph):
    """It records its first run; a reader of that bank runs once, not once for each of the sampler's outputs."""
    nodes, alone = graph(), drawn(host.run(graph()))
    nodes["draw_anchors"]["inputs"]["latent_image"] = link(nodes, "twice", "Twice", latent=["anchor_latent", 0])
    with host.node(Twice):
        run = host.run(nodes)
    assert torch.equal(drawn(run), alone)
    assert sum(event == "executed" and data["node"] == "save" for event, data in run.events) <= 1
    assert len([file for file in run.outputs["save"]["latents"]]) == 1


def test_a_recording_that_the_host_dropped_is_explained(host, graph):
    """Memory pressure may evict the MODEL that records and keep what its sampler drew."""
    import execution

    nodes = graph(seed=21)
    host.run(deepcopy(nodes), cached=True)
    outputs = host._cached_executor.caches.outputs
    evicted = [key for key, entry in outputs.cache.items() if isinstance(entry, execution.CacheEntry)]
    for key in evicted:
        values = outputs.cache[key].outputs
        if any(type(value[0]).__name__ in ("Bank", "ModelPatcher") for value in values if value):
            del outputs.cache[key]
    nodes["draw"]["inputs"]["seed"] = 8
    with pytest.raises(RuntimeError, match="recorded nothing.*change their seed and queue again"):
        host.run(deepcopy(nodes), cached=True)
    nodes["draw_anchors"]["inputs"]["seed"] = 22
    host.run(deepcopy(nodes), cached=True)
