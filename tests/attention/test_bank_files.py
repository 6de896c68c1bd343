"""Banks in files: written, read, merged, and refused."""

import json
import math
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from harness import banks, broken
from harness.memory import growth
from harness.values import given
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from storyreel.core.attention.bank import DTYPES, Bank
from storyreel.core.attention.bank_format import METADATA, decode, encode
from storyreel.core.weights.refusal import Unreadable

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "bank-format.md").read_text(encoding="utf-8")
EVERY = tuple(DTYPES.values())


@pytest.fixture
def folder(host, tmp_path, monkeypatch):
    """models/storyreel_banks, empty, for the host's own nodes."""
    import folder_paths
    from storyreel.host.common.folders import file_names

    file_names("storyreel_banks")
    suffixes = folder_paths.folder_names_and_paths["storyreel_banks"][1]
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "storyreel_banks", ([str(tmp_path / "storyreel_banks")], suffixes)
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    (tmp_path / "storyreel_banks").mkdir()
    return tmp_path / "storyreel_banks"


def node(kind: str, **inputs) -> dict:
    return {"class_type": f"StoryReel{kind}", "inputs": inputs}


def save(host, bank, name: str = "my_characters", **options):
    with given(host, bank=bank) as values:
        return host.run(values | {"save": node("SaveBank", bank=["bank", 0], name=name)}, **options)


def load(host, name: str = "my_characters.safetensors", **options):
    shown = {"class_type": "PreviewAny", "inputs": {"source": ["load", 0]}}
    return host.run({"load": node("LoadBank", file=name), "show": shown}, **options)


def merge(host, *given_banks):
    prompt = node("MergeBanks", **{f"banks.bank_{n}": [f"b{n}", 0] for n in range(1, len(given_banks) + 1)})
    with given(host, **{f"b{n}": bank for n, bank in enumerate(given_banks, 1)}) as values:
        shown = {"class_type": "PreviewAny", "inputs": {"source": ["merge", 0]}}
        return host.run(values | {"merge": prompt, "show": shown})


# Save and load


@pytest.mark.parametrize("dtypes", [(dtype,) for dtype in EVERY] + [EVERY], ids=[*DTYPES, "several recordings"])
def test_a_saved_bank_is_loaded_bit_for_bit(host, folder, dtypes):
    bank = banks.bank(*dtypes)
    saved = save(host, bank)
    assert saved.values["save"][0] is bank
    loaded = load(host).values["load"][0]
    assert banks.contents(loaded) == banks.contents(bank) and loaded.finished
    assert loaded.recordings[0].steps == bank.recordings[0].steps  # noise levels, which are keys
    assert loaded.characters == set(banks.CHARACTERS)
    assert all(t.device.type == "cpu" for made in loaded.recordings for t in made.tokens.values())


def test_a_loaded_bank_reads_as_the_saved_one(host, folder):
    bank = banks.bank(torch.float16)
    save(host, bank)
    (loaded,), (made,) = load(host).values["load"][0].recordings, bank.recordings
    for image, step, pixels, cond in made.tokens:
        for layer in (0, 1, 3):
            for rate in (0.1, 1.0):
                expected = made.read(image, step, pixels, layer, cond, rate)
                found = loaded.read(image, step, pixels, layer, cond, rate)
                assert (found is None) == (expected is None) and (found is None or torch.equal(found, expected))


def test_the_nodes_show_what_was_saved_and_loaded(host, folder):
    bank = banks.bank(torch.float16)
    path = folder / "my_characters.safetensors"
    shown = save(host, bank).outputs["save"]["text"]
    assert shown == [f"{path}: {path.stat().st_size / 1e6:,.1f} MB"]
    (shown,) = load(host).outputs["load"]["text"]
    assert shown.startswith("unnamed, Lina, 'Zoë ") and "王小明: 4 images, recorded with BaseModel, " in shown
    assert shown.endswith(" MB") and shown.isprintable()


def test_nothing_is_overwritten(host, folder):
    first, second, third = (banks.bank(torch.float16, seed=seed) for seed in (0, 5, 9))
    for bank in (first, second, third):
        save(host, bank, "heroes/Lina.safetensors")
    names = ["Lina.safetensors", "Lina_00001_.safetensors", "Lina_00002_.safetensors"]
    assert sorted(path.name for path in (folder / "heroes").iterdir()) == names
    for name, bank in zip(names, (first, second, third), strict=True):
        assert banks.contents(load(host, f"heroes/{name}").values["load"][0]) == banks.contents(bank)


def test_a_saved_file_is_written_again_only_when_it_is_gone(host, folder):
    bank = banks.bank(torch.float16)
    for _ in range(2):
        save(host, bank, cached=True)
    assert [path.name for path in folder.iterdir()] == ["my_characters.safetensors"]
    (folder / "my_characters.safetensors").unlink()
    save(host, bank, cached=True)
    assert [path.name for path in folder.iterdir()] == ["my_characters.safetensors"]


def test_a_changed_file_is_loaded_again(host, folder):
    path = folder / "my_characters.safetensors"
    save(host, banks.bank(torch.float16))
    first, again = (load(host, cached=True).values["load"][0] for _ in range(2))
    assert first is again
    path.unlink()
    other = banks.bank(torch.float16, seed=5)
    save(host, other)
    os.utime(path, ns=(1, 1))
    assert banks.contents(load(host, cached=True).values["load"][0]) == banks.contents(other)


def test_folders_of_the_users_own(host, folder, tmp_path):
    """As in extra_model_paths.yaml."""
    import folder_paths
    from utils.extra_config import load_extra_path_config

    own = tmp_path / "disk" / "banks"
    own.mkdir(parents=True)
    bank = banks.bank(torch.float16)
    save(host, bank)
    (folder / "my_characters.safetensors").rename(own / "mine.safetensors")
    (own / "readme.txt").write_text("not a bank")
    (own / "others.ckpt").write_text("not a bank")
    settings = tmp_path / "extra_model_paths.yaml"
    settings.write_text(
        f"mine:\n  base_path: {tmp_path}/disk\n  is_default: true\n  storyreel_banks: banks\n", encoding="utf-8"
    )
    load_extra_path_config(str(settings))
    folder_paths.filename_list_cache.clear()
    (entry,) = host.nodes["StoryReelLoadBank"].GET_SCHEMA().inputs
    assert entry.options == ["mine.safetensors"]
    assert banks.contents(load(host, "mine.safetensors").values["load"][0]) == banks.contents(bank)
    save(host, bank, "new")
    assert (own / "new.safetensors").exists() and not list(folder.iterdir())


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "/tmp/storyreel_escaped", "", ".safetensors", "\0"])
def test_a_name_outside_the_folder_is_refused_before_anything_runs(host, folder, tmp_path, name):
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="name is .* is expected"):
        save(host, banks.bank(torch.float16), name)
    with given(host, bank=banks.bank(torch.float16), name=name) as values:  # a linked name is checked when it is there
        prompt = values | {"save": node("SaveBank", bank=["bank", 0], name=["name", 0])}
        with pytest.raises(RuntimeError, match="Save Bank: name is .* is expected"):
            host.run(prompt)
    assert set(tmp_path.rglob("*")) == before and not Path("/tmp/storyreel_escaped.safetensors").exists()


def test_a_path_outside_the_folder_is_not_loaded(host, folder, tmp_path):
    save(host, banks.bank(torch.float16))
    (folder / "my_characters.safetensors").rename(tmp_path / "outside.safetensors")
    from storyreel.host.attention import bank_files

    with pytest.raises(ValueError, match="not in list"):
        load(host, "../outside.safetensors")
    for name in ("../outside.safetensors", str(tmp_path / "outside.safetensors")):
        with pytest.raises(FileNotFoundError):
            bank_files.load(name)


def test_what_is_no_whole_bank_is_not_saved(host, folder):
    torn = banks.bank(torch.float16)
    torn.recordings[0].indices[0, torn.recordings[0].steps[0], 16][0] = 48
    wrong = {
        "bank is 'a bank'; a bank is expected": "a bank",
        "bank is still being recorded; a bank of a finished run is expected": Bank(finished=False),
        "the bank holds no tokens; a bank of a run that shares tokens is expected": Bank(),
        "sigmas[0] is inf; a number from 0 to 1e+09": banks.bank(torch.float16, sigmas=(math.inf, 1.0)),
        "0.indices.0.0.16 is no rising list of token numbers from 0 to 47, which was expected": torn,
    }
    for sentence, bank in wrong.items():
        with pytest.raises(RuntimeError, match="Save Bank: ") as refused:
            save(host, bank)
        assert sentence in str(refused.value)
    assert not list(folder.iterdir())


def test_more_tensors_than_a_file_may_hold_are_not_saved():
    bank = banks.bank(torch.float16)
    (made,) = bank.recordings
    _, _, pixels, cond = slot = next(iter(made.tokens))
    made.images = made.images * 1000
    for place in range(4000):
        for step in made.steps[:5]:
            made.tokens[place, step, pixels, cond] = made.tokens[slot]
            made.indices[place, step, pixels] = made.indices[slot[:3]]
    with pytest.raises(Unreadable, match=r"holds 4\d,\d+ tensors; 32,768 at most were expected: record fewer images"):
        encode(bank)


# Loading costs nothing, writing is all or nothing


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of the process from /proc")
def test_loading_reads_no_tokens(host, folder):
    """The tokens of a file of 200 MB come into memory when they are used, once."""

    def resident() -> int:
        return 1024 * int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])

    bank = banks.bank(torch.float32)
    (made,) = bank.recordings
    step = made.steps[0]
    made.levels[8] = type(made.levels[16])(8, 10_000, 2500)
    made.layers[step, 8] = (0, 1)
    made.indices[0, step, 8] = torch.arange(10_000, dtype=torch.int32)
    made.tokens[0, step, 8, 0] = torch.ones(2, 10_000, 2500)
    save(host, bank)
    from storyreel.host.attention import bank_files

    bank_files.load("my_characters.safetensors")
    before = resident()
    (loaded,) = bank_files.load("my_characters.safetensors").recordings
    assert resident() - before < 20e6
    tokens = loaded.read(0, step, 8, 1, 0)
    assert tokens.sum() == 25e6 and resident() - before < 120e6


@pytest.mark.skipif(sys.platform == "win32", reason="ends a process by a signal")
def test_a_process_that_is_killed_inside_a_write_leaves_no_file(host, folder):
    path = folder / "my_characters.safetensors"
    code = f"""
import importlib.util, os, pathlib, sys
root = pathlib.Path({str(ROOT)!r})
sys.path.append(str(root / "tests"))
spec = importlib.util.spec_from_file_location("storyreel", root / "__init__.py", submodule_search_locations=[str(root)])
sys.modules["storyreel"] = importlib.util.module_from_spec(spec)
import torch
from harness import banks
from storyreel.core.attention.bank_format import encode
from storyreel.core.video.files import appearing
from storyreel.core.weights import safetensors_file
written = []
def report(size):
    written.append(size)
    if len(written) == 40:
        os.kill(os.getpid(), 9)
with appearing(pathlib.Path({str(path)!r})) as unfinished:
    safetensors_file.write(unfinished, *encode(banks.bank(torch.float16)), report)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [file.name for file in folder.iterdir()] == ["my_characters.safetensors.part"]
    assert host.nodes["StoryReelLoadBank"].GET_SCHEMA().inputs[0].options[0].startswith("no file yet")
    bank = banks.bank(torch.float16)
    save(host, bank)
    assert [file.name for file in folder.iterdir()] == ["my_characters.safetensors"]
    assert banks.contents(load(host).values["load"][0]) == banks.contents(bank)


def test_an_interrupted_write_leaves_nothing(host, folder):
    import comfy.model_management
    from storyreel.host.attention import bank_files

    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        bank_files.save(banks.bank(torch.float16), bank_files.new_path("name"))
    assert not list(folder.iterdir())


# Merge


def test_a_character_keeps_the_images_of_all_banks(host):
    first, second, third = (banks.bank(torch.float16, seed=seed) for seed in (0, 5, 9))
    run = merge(host, first, second, third)
    bank = run.values["merge"][0]
    assert bank.recordings == [*first.recordings, *second.recordings, *third.recordings]
    assert len(bank.images_of(frozenset({"Lina"}))) == 3 and len(bank.images) == 12
    assert ": 12 images, " in run.outputs["merge"]["text"][0]


def test_the_same_bank_counts_once(host, folder):
    bank, other = banks.bank(torch.float8_e4m3fn), banks.bank(torch.float8_e4m3fn)
    (made,) = other.recordings
    last = max((slot for slot in made.tokens if made.tokens[slot].numel()), key=str)
    made.tokens[last] = made.tokens[last].clone()
    made.tokens[last].view(torch.uint8).flatten()[-1] ^= 1
    save(host, bank)
    from storyreel.host.attention import bank_files

    loaded = [bank_files.load("my_characters.safetensors") for _ in range(2)]
    assert merge(host, bank, bank).values["merge"][0].recordings == bank.recordings
    assert len(merge(host, *loaded, bank).values["merge"][0].recordings) == 1
    assert len(merge(host, bank, other).values["merge"][0].recordings) == 2  # one bit differs
    merged = merge(host, bank, other).values["merge"][0]
    assert merge(host, merged, bank, merged).values["merge"][0].recordings == merged.recordings


@pytest.mark.parametrize("changed", [{"model": "f" * 64}, {"network": "SDXL"}])
def test_banks_of_different_models_are_not_merged(host, changed):
    banks_of = banks.bank(torch.float16), banks.bank(torch.float16, seed=3), banks.bank(torch.float16, **changed)
    with pytest.raises(
        RuntimeError,
        match=r"Merge Banks: bank_3 was recorded with \w+ \(.*\), and bank_1 with BaseModel \(.*\); "
        "banks of one model are expected.$",
    ):
        merge(host, *banks_of)


def test_what_is_no_bank_is_not_merged(host):
    with pytest.raises(RuntimeError, match="Merge Banks: bank_2 is 7; a bank is expected.$"):
        merge(host, banks.bank(torch.float16), 7)


# The document


def examples() -> list[str]:
    """The blocks of code in docs/bank-format.md."""
    blocks = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", DOCUMENT, re.MULTILINE)
    return [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in blocks]


def run_example(text: str, folder: Path) -> str:
    """What a program prints that runs in a folder, without our code."""
    done = subprocess.run([sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_example_that_reads_runs(host, folder):
    bank = banks.bank(torch.float16, torch.float8_e4m3fn)
    save(host, bank)
    reading, _ = examples()
    assert len(reading.strip().splitlines()) <= 15
    shapes = run_example(reading, folder).count("torch.Size([")
    assert shapes == 2 * sum(len(made.tokens) for made in bank.recordings)


def test_the_example_that_writes_is_read_by_the_node(host, folder):
    _, writing = examples()
    assert len(writing.strip().splitlines()) <= 15
    run_example(writing, folder)
    bank = load(host, "minimal.safetensors").values["load"][0]
    written = load_file(folder / "minimal.safetensors")
    assert bank.characters == {"Lina"} and bank.recordings[0].steps == [14.6146]
    assert torch.equal(bank.recordings[0].read(0, 14.6146, 64, 0, 0), written["0.tokens.0.0.64.0"][0])
    save(host, bank, "again")
    again = load_file(folder / "again.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in written.items()) and again.keys() == written.keys()


def stated() -> dict:
    """The metadata of a bank of two images, by the document."""
    origin = {"model": "a model", "network": "SD15", "sampler": "euler", "sigmas": [3.5, 0.25, 0], "height": 2}
    origin |= {"width": 2, "seed": 5, "sampling_rate": 0.5, "sampling_rate_fine": 1}
    images = [{"characters": ["Bob", ""], "number": 1, "prompt": "Bob", "preview": True}]
    images += [{"characters": [], "number": 2}]
    levels = [{"pixels": 8, "tokens": 4, "channels": 2}, {"pixels": 16, "tokens": 1, "channels": 3}]
    fine = {"pixels": 8, "layers": [0, 5], "conds": [[0, 1], [1]]}
    coarse = {"pixels": 16, "layers": [2], "conds": [[], [0]]}
    steps = [{"sigma": 3.5, "levels": [fine, coarse]}, {"sigma": 0.25, "levels": [coarse]}]
    return {"version": 1, "recordings": [{"origin": origin, "images": images, "levels": levels, "steps": steps}]}


def parts() -> dict[str, tuple[str, list[int], bytes]]:
    """{name: (dtype, shape, bytes)} of that bank."""
    half = [struct.pack(f"<{n}e", *range(n)) for n in (2, 3, 8)]
    return {
        "0.indices.0.0.8": ("I32", [2], struct.pack("<2i", 0, 3)),
        "0.indices.1.0.8": ("I32", [0], b""),
        "0.indices.1.0.16": ("I32", [1], struct.pack("<i", 0)),
        "0.indices.1.1.16": ("I32", [1], struct.pack("<i", 0)),
        "0.tokens.0.0.8.0": ("F16", [2, 2, 2], half[2]),
        "0.tokens.0.0.8.1": ("F32", [2, 2, 2], struct.pack("<8f", *range(8))),
        "0.tokens.1.0.8.1": ("F16", [2, 0, 2], b""),
        "0.tokens.1.0.16.0": ("F16", [1, 1, 3], half[1]),
        "0.tokens.1.1.16.0": ("F8_E4M3", [1, 1, 3], b"\x38\x40\x7e"),
        "0.preview.0": ("U8", [1, 2, 3], bytes(range(6))),
    }


def written(metadata: dict | str, tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """A safetensors file, by its own specification and the document's."""
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    header, data = {"__metadata__": {"storyreel_bank": text, "another program's": "own"}}, b""
    sizes = {"F32": 4, "I32": 4, "F16": 2, "U8": 1, "F8_E4M3": 1}
    for name, (dtype, shape, part) in sorted(tensors.items(), key=lambda entry: -sizes.get(entry[1][0], 8)):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    return broken.with_header(json.dumps(header), data)


def test_a_file_of_another_program_is_read_by_the_node(host, folder):
    (folder / "other.sft").write_bytes(written(stated(), parts()))
    (made,) = load(host, "other.sft").values["load"][0].recordings
    assert made.steps == [3.5, 0.25] and made.characters == {"Bob", ""} and made.origin.sigmas == (3.5, 0.25, 0.0)
    assert made.read(0, 3.5, 8, 5, 0).tolist() == [[4, 5], [6, 7]]
    assert made.read(0, 3.5, 8, 5, 1).tolist() == [[4, 5], [6, 7]]
    assert made.read(0, 3.5, 8, 1, 0) is None and made.read(1, 3.5, 8, 0, 1) is None
    assert made.read(1, 0.25, 16, 2, 0).float().tolist() == [[1.0, 2.0, 448.0]]
    assert made.indices[0, 3.5, 8].tolist() == [0, 3]
    assert made.images[0].preview.tolist() == [[[0, 1, 2], [3, 4, 5]]]


@pytest.mark.parametrize(
    ("limit", "place", "most", "more"),
    [
        ("4,096 images", ("recordings", 0, "images"), 4096, {"characters": [], "number": 0}),
        ("1,000 characters", ("recordings", 0, "images", 0, "characters"), 1000, "a"),
        ("16,384 noise levels", ("recordings", 0, "origin", "sigmas"), 16_384, 1.0),
    ],
)
def test_the_limits_of_the_document_are_those_of_the_reader(host, folder, limit, place, most, more):
    assert limit in DOCUMENT
    sentence = f"{place[-1]} is a list of {most + 1}; a list of "
    assert sentence in refusal(folder, written(changed(place, [more] * (most + 1)), parts()))
    metadata = changed(place, [more] * most)
    if place[-1] == "images":  # of which no tokens are stored
        metadata["recordings"][0]["steps"] = []
        (folder / "whole.safetensors").write_bytes(written(metadata, {}))
    else:
        (folder / "whole.safetensors").write_bytes(written(metadata, parts()))
    assert len(load(host, "whole.safetensors").values["load"][0].recordings) == 1


# Refusals


def refusal(folder: Path, data: bytes, name: str = "hostile.safetensors") -> str:
    """The sentence with which a file is refused."""
    from storyreel.host.attention import bank_files

    (folder / name).write_bytes(data)
    with pytest.raises(ValueError) as refused:
        bank_files.load(name)
    text = str(refused.value)
    assert type(refused.value) is ValueError and text.startswith(name) and text.endswith("."), text
    assert text.isprintable() and len(text) < 400 and ("expected" in text or "download it again" in text), text
    return text


def changed(path: tuple, value) -> dict:
    metadata = inner = stated()
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return metadata


RECORDING = ("recordings", 0)
STEP = (*RECORDING, "steps", 0)
LEVEL = (*STEP, "levels", 0)
WRONG = [
    ((("version",), 2), "is a bank of format version 2; 1 at most was expected: update ComfyUI-StoryReel"),
    ((("version",), 10**30), "is a bank of format version beyond any bound; 1 at most was expected"),
    ((("version",), 0), "storyreel_bank.version is 0; a whole number from 1 to 1 was expected"),
    ((("version",), "1"), "storyreel_bank.version is '1'; a whole number"),
    ((("version",), None), "storyreel_bank states no version"),
    ((("more",), 3), "storyreel_bank states more, which this version does not know"),
    ((("recordings",), []), "storyreel_bank.recordings is a list of 0; a list of 1 to 1024 was expected"),
    (((*RECORDING, "origin", "sigmas"), [3.5, math.nan]), "origin.sigmas[1] is nan; a number from 0 to 1e+09"),
    (((*RECORDING, "origin", "sigmas"), [math.inf]), "origin.sigmas[0] is inf; a number from 0 to 1e+09"),
    (((*RECORDING, "origin", "sigmas"), [-1]), "origin.sigmas[0] is -1; a number from 0 to 1e+09"),
    (((*RECORDING, "origin", "sigmas"), [1] * 20_000), "origin.sigmas is a list of 20000; a list of 0 to 16384"),
    (((*RECORDING, "origin", "model"), "a\nb"), "origin.model is 'a\\nb'; a line of up to 500 letters"),
    (((*RECORDING, "origin", "model"), "a" * 501), "; a line of up to 500 letters was expected"),
    (((*RECORDING, "origin", "seed"), 0.5), "origin.seed is 0.5; a whole number from 0 to"),
    (((*RECORDING, "origin", "seed"), -1), "origin.seed is -1; a whole number from 0 to"),
    (((*RECORDING, "origin", "height"), 10**9), "origin.height is 1000000000; a whole number from 1 to 1048576"),
    (((*RECORDING, "origin", "sampling_rate"), 1.5), "origin.sampling_rate is 1.5; a number from 0 to 1"),
    (((*RECORDING, "origin", "network"), None), "origin states no network"),
    (((*RECORDING, "origin"), 3), "origin is no list of values by name, but 3"),
    (((*RECORDING, "images"), []), "images is a list of 0; a list of 1 to 4096 was expected"),
    (((*RECORDING, "images", 0, "characters"), "Bob"), "characters is 'Bob'; a list of 0 to 1000 was expected"),
    (((*RECORDING, "images", 0, "characters"), [3]), "characters[0] is 3; a text of up to 1000 letters was expected"),
    (((*RECORDING, "images", 0, "number"), True), "number is True; a whole number"),
    (((*RECORDING, "images", 0, "prompt"), ["a"]), "prompt is a list of 1; a text"),
    (((*RECORDING, "images", 0, "preview"), 1), "preview is 1; true or false was expected"),
    (((*RECORDING, "images", 1, "preview"), True), "lacks 0.preview.1"),
    (((*RECORDING, "images", 0, "preview"), False), "also holds 0.preview.0, which its metadata does not state"),
    (((*RECORDING, "levels", 1, "pixels"), 8), "levels[1].pixels is 8; more than 8 was expected"),
    (((*RECORDING, "levels", 1, "pixels"), 9), "steps[0] has a level of 16 pixels; one of its levels was expected"),
    (((*RECORDING, "levels", 0, "tokens"), 10**30), "levels[0].tokens is beyond any bound"),
    (((*RECORDING, "levels", 0, "tokens"), 3), "0.indices.0.0.8 is no rising list of token numbers from 0 to 2"),
    (((*RECORDING, "levels", 0, "channels"), 3), "holds 0.tokens.0.0.8.0 as 2 x 2 x 2, and 2 x 2 x 3 was expected"),
    (((*RECORDING, "steps", 1, "sigma"), 3.5), "steps[1].sigma is 3.5; less than 3.5 was expected"),
    (((*RECORDING, "steps", 1, "sigma"), math.nan), "steps[1].sigma is nan; a number from 0"),
    (((*STEP, "levels"), []), "levels is a list of 0; a list of 1 to 64 was expected"),
    (((*LEVEL, "pixels"), 16), "levels[1].pixels is 16; more than 16 was expected"),
    (((*LEVEL, "layers"), [5, 0]), "layers[1] is 0; more than 5 was expected"),
    (((*LEVEL, "layers"), [0, 0]), "layers[1] is 0; more than 0 was expected"),
    (((*LEVEL, "layers"), [-1, 0]), "layers[0] is -1; a whole number from 0"),
    (((*LEVEL, "layers"), [0]), "holds 0.tokens.0.0.8.0 as 2 x 2 x 2, and 1 x 2 x 2 was expected in a bank"),
    (((*LEVEL, "conds"), [[0, 1]]), "steps[0] states conds of 1 images, and of 2 was expected"),
    (((*LEVEL, "conds"), [[0, 1], [0, 1]]), "is no whole bank: it lacks 0.tokens.1.0.8.0; a file of Save Bank"),
    (((*LEVEL, "conds"), [[0, 1], []]), "also holds 0.indices.1.0.8, which its metadata does not state; a file of"),
    (((*LEVEL, "conds"), [[0], [1]]), "also holds 0.tokens.0.0.8.1, which its metadata does not state"),
    (((*LEVEL, "conds"), [[0, 2], [1]]), "conds[0][1] is 2; 0 or 1 was expected"),
    (((*LEVEL, "conds"), [[1, 0], [1]]), "conds[0][1] is 0; more than 1 was expected"),
    (((*LEVEL, "conds"), [[True], [1]]), "conds[0][0] is True; 0 or 1 was expected"),
]


@pytest.mark.parametrize(("change", "sentence"), WRONG)
def test_wrong_metadata_is_refused_in_one_sentence(host, folder, change, sentence):
    assert sentence in refusal(folder, written(changed(*change), parts()))


TEXTS = {
    "no JSON": ("{version}", "storyreel_bank is no JSON, but {version}"),
    "a list": ("[1]", "storyreel_bank is no list of values by name, but [1]"),
    "nothing": ("", "storyreel_bank is no JSON, but "),
    "a number of many digits": ('{"version": 1' + "0" * 5000 + "}", "storyreel_bank is no JSON"),
    "nested deeply": ("[" * 200_000, "storyreel_bank is no JSON"),
    "an object nested deeply": ('{"recordings":' * 100_000, "storyreel_bank is no JSON"),
    "a long text": (json.dumps("a" * 2**22), "storyreel_bank has 4,194,306 letters; 4,194,304 at most were expected"),
    "many lists": (json.dumps([[]] * 10**6), "storyreel_bank is no list of values by name, but [["),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_hostile_metadata_is_refused(host, folder, kind):
    text, sentence = TEXTS[kind]
    began = time.process_time()
    assert sentence in refusal(folder, written(text, parts()))
    assert time.process_time() - began < 10


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak memory from /proc")
def test_metadata_of_many_entries_takes_neither_memory_nor_time(host, folder):
    """As many as fit into the longest text."""
    level = {"pixels": 8, "layers": list(range(4096)), "conds": [[] for _ in range(4096)]}
    steps = [{"sigma": 1000 - number, "levels": [level]} for number in range(120)]
    metadata = changed((*RECORDING, "steps"), steps)
    metadata["recordings"][0]["images"] = [{"characters": [], "number": 0}] * 4096
    text = json.dumps(metadata, separators=(",", ":"))
    assert 2**21 < len(text) < 2**22
    data, began = written(text, parts()), time.process_time()
    assert growth(lambda: refusal(folder, data)) < 2**28
    assert time.process_time() - began < 20


@pytest.mark.parametrize("kind", broken.SAFETENSORS)
def test_a_broken_file_is_refused(host, folder, kind):
    data = broken.SAFETENSORS[kind](written(stated(), parts()))
    assert "is no safetensors file, or not a whole one: " in refusal(folder, data)


def test_what_is_no_bank_is_refused(host, folder):
    save_file({"a": torch.zeros(2)}, folder / "lora.safetensors", {"format": "pt"})
    text = refusal(folder, (folder / "lora.safetensors").read_bytes())
    assert text == (
        "hostile.safetensors is no bank: it states no storyreel_bank in its metadata; a file of Save Bank was expected."
    )


def test_a_pickle_is_never_read(host, folder, tmp_path):
    for name in ("a.ckpt", "a.pt", "a.safetensors"):
        for kind, build in broken.pickles(tmp_path / "ran").items():
            if kind != "safetensors by another name":
                assert "is no safetensors file" in refusal(folder, build(), name), kind
    assert not (tmp_path / "ran").exists()
    options = host.nodes["StoryReelLoadBank"].GET_SCHEMA().inputs[0].options
    assert options == ["a.safetensors", "hostile.safetensors"][: len(options)]


TENSORS = {
    "a missing one": ({"0.tokens.0.0.8.1": None}, "lacks 0.tokens.0.0.8.1"),
    "missing indices": ({"0.indices.0.0.8": None}, "lacks 0.indices.0.0.8"),
    "one more": ({"a\nb": ("U8", [0], b"")}, "also holds 'a\\nb', which its metadata does not state"),
    "one of another recording": ({"1.preview.0": ("U8", [1, 1, 3], b"abc")}, "also holds 1.preview.0"),
    "indices of another format": (
        {"0.indices.0.0.8": ("F32", [2], bytes(8))},
        "holds 0.indices.0.0.8 as float32, and int32 was expected in a bank",
    ),
    "indices of another shape": (
        {"0.indices.0.0.8": ("I32", [1, 2], bytes(8))},
        "holds 0.indices.0.0.8 as 1 x 2, and 1 was expected in a bank",
    ),
    "a single index": (
        {"0.indices.0.0.8": ("I32", [], bytes(4))},
        "holds 0.indices.0.0.8 as a single number, and 0 was expected in a bank",
    ),
    "falling indices": (
        {"0.indices.0.0.8": ("I32", [2], struct.pack("<2i", 3, 0))},
        "0.indices.0.0.8 is no rising list of token numbers from 0 to 3, which was expected",
    ),
    "an index twice": ({"0.indices.0.0.8": ("I32", [2], struct.pack("<2i", 1, 1))}, "is no rising list"),
    "an index below 0": ({"0.indices.0.0.8": ("I32", [2], struct.pack("<2i", -1, 1))}, "is no rising list"),
    "an index beyond": ({"0.indices.0.0.8": ("I32", [2], struct.pack("<2i", 1, 4))}, "is no rising list"),
    "more indices than tokens": (
        {"0.indices.0.0.8": ("I32", [3], struct.pack("<3i", 0, 1, 3))},
        "holds 0.tokens.0.0.8.0 as 2 x 2 x 2, and 2 x 3 x 2 was expected in a bank",
    ),
    "tokens of another format": (
        {"0.tokens.0.0.8.0": ("I32", [2, 2, 2], bytes(32))},
        "holds 0.tokens.0.0.8.0 as int32, and float32 or float16 or float8_e4m3fn was expected in a bank",
    ),
    "a gray preview": (
        {"0.preview.0": ("U8", [1, 2], bytes(2))},
        "holds 0.preview.0 as 1 x 2, and any x any x 3 was expected in a bank",
    ),
    "an empty preview": ({"0.preview.0": ("U8", [0, 2, 3], b"")}, "holds 0.preview.0 as 0 x 2 x 3"),
    "a preview of another format": ({"0.preview.0": ("F16", [1, 1, 3], bytes(6))}, "as float16, and uint8 was"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_wrong_tensors_are_refused_in_one_sentence(host, folder, kind):
    change, sentence = TENSORS[kind]
    tensors = {name: part for name, part in (parts() | change).items() if part is not None}
    assert sentence in refusal(folder, written(stated(), tensors))


def test_a_saved_bank_states_what_the_document_does(host, folder):
    """Every key and tensor that the node writes is in docs/bank-format.md, and every one there is written."""
    save(host, banks.bank(torch.float16))
    with safe_open(folder / "my_characters.safetensors", "pt") as file:
        metadata, names = file.metadata(), set(file.keys())
    assert set(metadata) == {METADATA}
    keys: set[str] = set()

    def collect(value) -> None:
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            collect(inner)
        keys.update(value if isinstance(value, dict) else ())

    collect(json.loads(metadata[METADATA]))
    rows = re.findall(r"^\| (`[^|]+)\||^\* (`\w+`):", DOCUMENT, re.MULTILINE)
    assert keys == {key for row in rows for key in re.findall(r"`(\w+)`", "".join(row))}
    kinds = {re.sub(r"\d+", "#", name) for name in names}
    assert kinds == {"#.indices.#.#.#", "#.tokens.#.#.#.#", "#.preview.#"}
    assert all(f"`R.{kind}." in DOCUMENT for kind in ("indices", "tokens", "preview"))


def test_a_bank_is_the_same_in_memory(host):
    """Without a file, and whatever the order of its dictionaries."""
    bank = banks.bank(*EVERY)
    for made in bank.recordings:
        made.tokens = dict(reversed(made.tokens.items()))
        made.layers = dict(reversed(made.layers.items()))
    assert banks.contents(decode(*encode(bank))) == banks.contents(bank)
