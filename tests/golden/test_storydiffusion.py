"""Consistent Self-Attention against the published processors, run with their draws recorded.

Write and read phases of the published program are one batch here: the frames that it writes are our anchors, those that
it reads are our later frames. Sizes, rates, steps and characters come from each file's metadata.
"""

import itertools

import pytest
import torch
from harness.golden import Golden as GoldenFile
from harness.golden import files
from storyreel.core.attention.bank import Bank, BankImage, Origin, Recorder, Recording, merge
from storyreel.core.attention.consistent import Phase, Settings, SharedTokens, draw_shared_tokens
from storyreel.core.attention.extended import extended_attention
from storyreel.core.attention.presets import PRESETS
from storyreel.core.attention.sharing import SharingRules, find_groups
from storyreel.core.networks.attend import attend_plain

SYSTEM = "storydiffusion"
TOLERANCE = 1e-5  # of max|ref|, float32: the data's README


class Golden(GoldenFile):
    """One file of this system."""

    @property
    def images(self):
        return self.config["id_length"]

    def layers(self):
        return [(number, *layer) for number, layer in enumerate(self.config["layers"])]

    def rows(self, phase, step, layer, branch, end="in"):
        """Input or output of one branch of guidance, 0 or 1, [B, N, C]."""
        tensor = self[f"{phase}.s{step}.l{layer}.{end}"]
        images = len(tensor) // 2
        return tensor[branch * images : (branch + 1) * images]

    def drawn(self, level, step):
        """The sampled tokens of each image of a step that the file holds them for."""
        return [index for _, index in sorted(self.named(rf"idx{level}\.s{step}\.img(\d+)").items())]

    def attention(self, layer, hidden, heads, shared=None, stored=(), read=()):
        """shared: groups and samples. stored: tokens of each image of a bank. read: those that every row reads."""
        weight = {name: self[f"w.l{layer}.{name}.weight"] for name in ("to_q", "to_k", "to_v", "to_out.0")}
        q, k, v = (hidden @ weight[name].T for name in ("to_q", "to_k", "to_v"))
        if shared is None and not read:
            out = attend_plain(q, k, v, heads)
        else:
            q, k, v = (tensor.unflatten(-1, (heads, -1)) for tensor in (q, k, v))
            shared = SharedTokens.none(len(hidden)) if shared is None else SharedTokens(*shared)
            shared = shared.with_stored([read] * len(hidden))
            pairs = {
                place: tuple((tokens @ weight[name].T).unflatten(-1, (heads, -1)) for name in ("to_k", "to_v"))
                for place, tokens in enumerate(stored)
                if place in read
            }
            out = extended_attention(q, k, v, shared.groups, shared.samples, stored=pairs).flatten(-2)
        return out @ weight["to_out.0"].T + self[f"w.l{layer}.to_out.0.bias"]


def assert_close(ours, published):
    assert (ours - published).abs().max() <= TOLERANCE * published.abs().max()


@pytest.mark.parametrize("path", files(SYSTEM, "lv_*.safetensors"))
def test_low_vram(path):
    golden = Golden(path)
    config = golden.config
    phases, cast = [], []
    for name in config["characters"]:
        phases.append(f"write_{name}")
        cast += [frozenset({name})] * golden.images
    for reads in config["reads"]:
        phases.append(f"read_{reads}")
        cast.append(frozenset() if reads == "NC" else frozenset(c for c in config["characters"] if c in reads))
    groups = find_groups(range(len(cast)), cast, SharingRules(anchors=golden.images))

    for step in config["saved_steps"]:
        for layer, level, _, heads in golden.layers():
            active = {bool(golden[f"{phase}.active"][step, layer]) for phase in phases}
            assert len(active) == 1, "the published coins are the same in all phases"
            index = golden.drawn(level, step)
            samples = [[index[row % golden.images] for row in group.sources] for group in groups]
            for branch in (0, 1):
                hidden = torch.cat([golden.rows(phase, step, layer, branch) for phase in phases])
                published = torch.cat([golden.rows(phase, step, layer, branch, "out") for phase in phases])
                shared = (groups, samples) if active == {True} else None
                assert_close(golden.attention(layer, hidden, heads, shared), published)


def record(golden, name):
    """The bank of a character, recorded from the inputs of its write phase with the published draws."""
    active, conds = golden[f"write_{name}.active"], (0, 1)
    levels = {
        level: [number for number, own, *_ in golden.layers() if own == level] for _, level, *_ in golden.layers()
    }

    def planned(step, pixels):
        return [layer for layer in levels[1024 // pixels] if active[int(step), layer]]

    config = golden.config
    origin = Origin("", "", "", (), config["height"], config["width"], 0, config["sa32"], config["sa64"])
    images = tuple(BankImage(frozenset({name}), number) for number in range(golden.images))
    recording = Recording(origin, images)
    recorder = Recorder(recording, torch.float32, planned)
    for step in config["saved_steps"]:
        for layer, level, *_ in golden.layers():
            for cond, image in itertools.product(conds, range(golden.images)):
                if active[step, layer]:
                    hidden = golden.rows(f"write_{name}", step, layer, cond)[image]
                    draw = golden.drawn(level, step)[image]
                    recorder.add(image, float(step), 1024 // level, layer, cond, hidden, lambda draw=draw: draw)
    recorder.finish()
    return Bank([recording])


@pytest.mark.parametrize("path", files(SYSTEM, "lv_*.safetensors"))
def test_a_bank_records_what_the_published_bank_keeps_of_layers_that_share(path):
    golden = Golden(path)
    for name in golden.config["characters"]:
        bank = record(golden, name)
        for step, (layer, level, *_), cond in itertools.product(golden.config["saved_steps"], golden.layers(), (0, 1)):
            recorded = [recording.read(i, float(step), 1024 // level, layer, cond) for recording, i in bank.images]
            published = golden[f"bank_{name}.s{step}.l{layer}"][cond]
            if golden[f"write_{name}.active"][step, layer] and len(published):
                assert torch.equal(torch.cat([tokens for tokens in recorded if tokens is not None]), published)
            else:
                assert not any(tokens is not None for tokens in recorded)


@pytest.mark.parametrize("path", files(SYSTEM, "lv_*.safetensors"))
def test_frames_read_a_bank_as_published(path):
    """The recorded tokens are projected once and read, whatever the number of frames of a batch."""
    golden = Golden(path)
    config = golden.config
    bank = merge(record(golden, name) for name in config["characters"])
    for reads, (layer, level, _, heads) in itertools.product(config["reads"], golden.layers()):
        names = frozenset() if reads == "NC" else frozenset(reads)
        for step, cond in itertools.product(config["saved_steps"], (0, 1)):
            hidden = golden.rows(f"read_{reads}", step, layer, cond)
            tokens = [recording.read(i, float(step), 1024 // level, layer, cond) for recording, i in bank.images]
            read = tuple(place for place in bank.images_of(names) if tokens[place] is not None)
            out = golden.attention(layer, hidden.repeat(2, 1, 1), heads, stored=tokens, read=read)
            published = golden.rows(f"read_{reads}", step, layer, cond, "out")
            assert_close(out, published.repeat(2, 1, 1))


def mask_case(golden):
    """Groups and the rows of a batch that holds all written and all read frames."""
    phases = ["write"] + [f"read_{number}" for number in range(golden.config["reads_n"])]
    frames = range(golden.images + golden.config["reads_n"])
    return phases, frames, find_groups(frames, None, SharingRules(anchors=golden.images))


@pytest.mark.parametrize("path", files(SYSTEM, "mask_*.safetensors"))
def test_mask(path):
    golden = Golden(path)
    config = golden.config
    phases, frames, groups = mask_case(golden)
    dense = draw_share_before_start(golden, frames)
    for step in config["saved_steps"]:
        early = step < config["thresholds"]["warm_up_steps"]
        for layer, level, _, heads in golden.layers():
            active = {bool(golden[f"{phase}.active"][step, layer]) for phase in phases}
            assert len(active) == 1
            shared = None
            if early and config["early_read"] == "dense":
                tokens = golden.rows("write", step, layer, 0).shape[1]
                shared = dense(tokens)
            elif not early and active == {True}:
                row = golden[f"row{level}.s{step}"].view(golden.images + 1, -1)
                shared = (groups, [[row[image].nonzero().flatten() for image in group.sources] for group in groups])
            for branch in (0, 1):
                hidden = torch.cat([golden.rows(phase, step, layer, branch) for phase in phases])
                published = torch.cat([golden.rows(phase, step, layer, branch, "out") for phase in phases])
                assert_close(golden.attention(layer, hidden, heads, shared), published)


def draw_share_before_start(golden, frames):
    settings = Settings(rules=SharingRules(anchors=golden.images), dense_early_read=True)

    def dense(tokens):
        drawn = draw_shared_tokens(settings, None, frames, phase=Phase.BEFORE, step=0, pixels=32, tokens=tokens)
        return drawn.groups, drawn.samples

    return dense


@pytest.mark.parametrize("path", files(SYSTEM, "mask_*.safetensors"))
def test_our_groups_attend_where_the_published_mask_allows(path):
    golden = Golden(path)
    images = golden.images
    _, _, groups = mask_case(golden)
    for step in golden.config["mask_steps"]:
        for level in {level for _, level, *_ in golden.layers()}:
            published = golden[f"mask{level}.s{step}"].bool()
            row = golden[f"row{level}.s{step}"].bool().view(images + 1, -1)
            tokens = row.shape[1]
            ours = torch.zeros(images + 1, tokens, images + 1, tokens, dtype=torch.bool)
            for group in groups:
                for reader in [r for r in group.targets if r <= images]:
                    ours[reader, :, reader] = True
                    for source in group.sources:
                        if source != reader:
                            ours[reader, :, source] = row[source]
            assert torch.equal(ours.view_as(published), published)


@pytest.mark.parametrize("path", files(SYSTEM, "lv_*.safetensors") + files(SYSTEM, "mask_*.safetensors"))
def test_presets_have_the_published_probabilities(path):
    config = Golden(path).config
    preset = PRESETS[config["kind"]]
    early, late = config["thresholds"]["coin_gt"]
    assert preset["layer_prob_early"] == pytest.approx(1 - early)
    assert preset["layer_prob_late"] == pytest.approx(1 - late)


@pytest.mark.parametrize("path", files(SYSTEM, "published_bug_lv_read_batch*.safetensors"))
def test_every_image_of_a_reading_batch_attends(path):
    """Published: the first image attends with the bank, the others come back as they went in."""
    golden = Golden(path)
    config = golden.config
    inputs = golden.named(r"read_batch(\d+)\.s(\d+)\.l(\d+)\.in")
    for (images, step, layer), hidden in inputs.items():
        heads, published = config["layers"][layer][2], golden[f"read_batch{images}.s{step}.l{layer}.out"]
        assert images == len(hidden) // 2 > 1
        bank = golden[f"bank_{config['characters'][0]}.s{step}.l{layer}"]
        for branch in (0, 1):
            rows = hidden[branch * images : (branch + 1) * images]
            # What was kept of the written frames comes in frames of the usual size, the last one padded.
            kept = bank[branch].split(rows.shape[1])
            sources = [torch.nn.functional.pad(part, (0, 0, 0, rows.shape[1] - len(part))) for part in kept]
            groups = find_groups(range(len(sources) + images), None, SharingRules(anchors=len(sources)))
            samples = [[torch.arange(len(kept[source])) for source in group.sources] for group in groups]
            ours = golden.attention(layer, torch.stack([*sources, *rows]), heads, (groups, samples))[len(sources) :]
            reference = published[branch * images : (branch + 1) * images]
            assert_close(ours[0], reference[0])
            assert torch.equal(reference[1:], rows[1:]), "the published bug"
            for attended, row in zip(ours[1:], rows[1:], strict=True):
                assert (attended - row).abs().max() > 0.1 * row.abs().max()


@pytest.mark.parametrize("path", files(SYSTEM, "published_bug_lv_write_nocfg.safetensors"))
def test_without_guidance_all_images_share(path):
    """Published: rows without guidance are taken for uncond and cond, and rows share only within each: of four, 0 with
    1 and 2 with 3. Both draw the same tokens."""
    golden = Golden(path)
    for (step, layer), hidden in golden.named(r"write_nocfg\.s(\d+)\.l(\d+)\.in").items():
        level, _, heads = golden.config["layers"][layer]
        published, index = golden[f"write_nocfg.s{step}.l{layer}.out"], golden.drawn(level, step)
        images = len(hidden) // 2

        def run(frames, layer=layer, heads=heads, hidden=hidden, index=index, images=images):
            groups = find_groups(range(len(frames)), None, SharingRules())
            samples = [[index[frames[row] % images] for row in group.sources] for group in groups]
            return golden.attention(layer, hidden[frames], heads, (groups, samples))

        for branch in (range(images), range(images, 2 * images)):
            assert_close(run(list(branch)), published[list(branch)])
        assert (run(list(range(len(hidden)))) - published).abs().max() > 0.1 * published.abs().max()
