"""Drop-down lists of files: the user's own first, and the included demo model never selected by default."""

from pathlib import Path

import pytest

SHIPPED = {path.name for path in (Path(__file__).resolve().parents[2] / "models" / "storyworld").rglob("*.safetensors")}
MINE = "zz mine.safetensors"  # alphabetically after every shipped name
KINDS = ("checkpoints", "diffusion_models", "ipadapter", "animatediff_models", "semantic_motion", "storyreel_banks")


def only_below(patch, root: Path, *kinds: str) -> None:
    """For these kinds the host lists only the folders `root`/kind, whatever other tests have put into its own."""
    import folder_paths
    from storyreel.host.common import folders

    for kind in kinds:
        folders.file_names(kind)  # from now on the host knows of it
    known = {kind: (list(paths), suffixes) for kind, (paths, suffixes) in folder_paths.folder_names_and_paths.items()}
    patch.setattr(folder_paths, "models_dir", str(root))
    patch.setattr(
        folder_paths,
        "folder_names_and_paths",
        known | {kind: ([str(root / kind)], known[kind][1]) for kind in kinds},
    )
    patch.setattr(folder_paths, "filename_list_cache", {})


@pytest.fixture(params=[False, True], ids=["no file", "a file"])
def own(request, host, tmp_path):
    """Whether the user has one own file in each folder, and nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        only_below(patch, tmp_path, *KINDS)
        for kind in KINDS:
            (tmp_path / kind).mkdir()
            if request.param:
                (tmp_path / kind / MINE).touch()
        yield request.param


def combos(nodes: dict, prefix: str = ""):
    """(node and input, options) of every drop-down of the nodes, those inside a choice included."""

    def of(declared: dict, where: str):
        for name, (kind, *about) in {**declared.get("required", {}), **declared.get("optional", {})}.items():
            options = kind if isinstance(kind, list) else (about[0] if about else {}).get("options", [])
            if options and isinstance(options[0], dict):
                for option in options:
                    yield from of(option["inputs"], f"{where}.{name}.{option['key']}")
            elif options:
                yield f"{where}.{name}", list(options)

    for id, node in nodes.items():
        if id.startswith(prefix):
            yield from of(node.INPUT_TYPES(), id)


def test_the_users_files_come_first_and_shipped_ones_last(host, own):
    from storyreel.host.common.choices import NOTHING

    choices = {where: options for where, options in combos(host.nodes, "StoryReel") if SHIPPED & set(options)}
    assert len(choices) >= 8, choices
    for where, options in choices.items():
        count = len(SHIPPED & set(options))
        assert set(options[-count:]) <= SHIPPED, where
        before = options[:-count]
        assert before[0].startswith(NOTHING) != (own or before[0] == "none"), where
        assert (MINE in before) == own, where


def test_lists_of_the_host_and_of_other_packs_hold_no_shipped_file(host):
    import folder_paths

    listed = [where for where, options in combos(host.nodes) if SHIPPED & set(options)]
    assert [where for where in listed if not where.startswith("StoryReel")] == []
    for kind in ("loras", *KINDS):
        assert not SHIPPED & set(folder_paths.get_filename_list(kind)), kind


def hints(host) -> dict[str, str]:
    from storyreel.host.common.choices import NOTHING

    return {
        where: options[0] for where, options in combos(host.nodes, "StoryReel") if str(options[0]).startswith(NOTHING)
    }


@pytest.mark.parametrize("own", [False], indirect=True)
@pytest.mark.parametrize(
    ("kind", "inputs", "sentence"),
    [
        (
            "StoryReelDynamiCrafterLoader",
            dict(model_type="auto", precision="auto", checkpoint=None),
            "checkpoint names no file. Put one into models/checkpoints or models/diffusion_models",
        ),
        (
            "StoryReelStreamingLoader",
            dict(model_type="auto", precision="auto", checkpoint=None),
            "checkpoint names no file. Put one into models/checkpoints or models/diffusion_models",
        ),
        (
            "StoryReelMotionPredictorLoader",
            {"predictor": "none", "token_space": "IP-Adapter", "token_space.ip_adapter": None},
            "ip_adapter names no file. Put one into models/ipadapter",
        ),
        ("StoryReelLoadBank", dict(file=None), "file names no file. Put one into models/storyreel_banks"),
        (
            "StoryReelMotionPredictorLoader",
            {"predictor": "none", "token_space": "image encoder", "token_space.encoder_folder": None},
            "encoder_folder names no file. Put one into models/clip_vision",
        ),
    ],
)
def test_the_hint_is_refused_where_it_is_chosen(host, own, kind, inputs, sentence):
    (hint,) = (
        first for where, first in hints(host).items() if where.startswith(kind) and where.endswith(sentence.split()[0])
    )
    inputs = {name: hint if value is None else value for name, value in inputs.items()}
    prompt = {
        "load": {"class_type": kind, "inputs": inputs},
        "show": {"class_type": "PreviewAny", "inputs": {"source": ["load", 0]}},
    }
    with pytest.raises(RuntimeError) as caught:
        host.run(prompt)
    title = host.nodes[kind].GET_SCHEMA().display_name.removesuffix(" (StoryReel)")
    assert f"{title}: {sentence}, press R in the graph and choose it." in str(caught.value)


def test_a_file_is_the_users_own_even_under_a_shipped_name(host, tmp_path, monkeypatch):
    from storyreel.host.common import folders

    name = "storyworld_ip_adapter.safetensors"
    assert Path(folders.path_of("ipadapter", name)).parent.parent.name == "storyworld"
    only_below(monkeypatch, tmp_path, "ipadapter")
    (tmp_path / "ipadapter").mkdir()
    (tmp_path / "ipadapter" / name).touch()
    assert folders.path_of("ipadapter", name) == str(tmp_path / "ipadapter" / name)
    assert folders.file_choices("ipadapter") == [name]


def test_own_files_come_first_once():
    from storyreel.host.common.choices import own_first, refuse_hint, to_choose

    assert own_first(["b", "a", "b"], ["0", "b"]) == ["a", "b", "0"]
    assert to_choose(["a"], ["0"], "x") == ["a", "0"]
    assert to_choose([], ["0"], "x", "y") == ["no file yet: put one into models/x or models/y", "0"]
    refuse_hint("file", "a file.safetensors")
    with pytest.raises(ValueError, match="^file names no file. Put one into models/x, press R"):
        refuse_hint("file", to_choose([], [], "x")[0])


def test_lists_of_other_packs_hold_models_alone(host, own, tmp_path):
    """The host's own lists, without our choice of suffixes: no model cards, and nothing of the included demo model."""
    import folder_paths
    from storyreel.host import storyworld

    for kind in KINDS:
        (tmp_path / kind / "card.md").touch()
        assert folder_paths.get_filename_list(kind) == [MINE] * own, kind
    assert folder_paths.get_filename_list(storyworld.FOLDER) == []
    assert folder_paths.get_full_path(storyworld.FOLDER, "unet.safetensors")


@pytest.mark.parametrize(
    ("node", "name", "first"),
    [
        ("StoryReelConsistentAttention", "preset", "low-vram"),
        ("StoryReelMotionPredictorLoader", "token_space", "IP-Adapter"),
        ("StoryReelApplyMotion", "decoder", "IP-Adapter"),
        ("StoryReelAnimateStoryByMotion", "decoder", "IP-Adapter"),
        ("StoryReelTrainMotionPredictor", "video_model", "none"),
    ],
)
def test_an_option_that_there_is_not_is_named(host, node, name, first):
    validate = host.nodes[node].validate_inputs
    assert f"{name} is grand; one of {first}" in validate(**{name: "grand"})
    assert validate(**{name: {name: first}}) is True


def test_the_host_asks_for_the_option(host):
    from harness.host import InvalidPrompt
    from storyreel.host.motion.predict import UNTRAINED

    loader = {"predictor": UNTRAINED, "token_space": "grand"}
    prompt = {
        "1": {"class_type": "StoryReelMotionPredictorLoader", "inputs": loader},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    with pytest.raises(InvalidPrompt, match="token_space is missing or unknown; one of IP-Adapter"):
        host.validate(prompt)
