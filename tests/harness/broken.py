"""Broken and hostile files of weights: each kind is built from a whole file's bytes, or from nothing."""

import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

# Safetensors: {kind: bytes of a whole file -> bytes of a broken one}


def header_of(data: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(text: str | bytes, rest: bytes) -> bytes:
    text = text if isinstance(text, bytes) else text.encode()
    return len(text).to_bytes(8, "little") + text + rest


def changed(change: Callable[[dict, str], object]) -> Callable[[bytes], bytes]:
    """change(header, key of a tensor) edits the header."""

    def edit(data: bytes) -> bytes:
        header, rest = header_of(data)
        change(header, max((key for key in header if key != "__metadata__"), key=lambda key: header[key]["shape"]))
        return with_header(json.dumps(header), rest)

    return edit


def entry(**changes) -> Callable[[bytes], bytes]:
    return changed(lambda header, key: header[key].update(changes))


def twice(data: bytes) -> bytes:
    header, rest = header_of(data)
    key = next(key for key in header if key != "__metadata__")
    return with_header(json.dumps(header)[:-1] + f", {json.dumps(key)}: {json.dumps(header[key])}}}", rest)


def shifted(by: int, which: slice) -> Callable[[bytes], bytes]:
    def shift(header: dict, key: str) -> None:
        place = header[key]["data_offsets"]
        place[which] = [number + by for number in place[which]]

    return changed(shift)


SAFETENSORS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: b"",
    "three bytes": lambda data: b"abc",
    "a page": lambda data: b"<!doctype html><title>404</title>" * 9,
    "zeros": lambda data: bytes(4096),
    "an absurd header": lambda data: (2**63).to_bytes(8, "little") + data[8:],
    "a header as long as the file": lambda data: len(data).to_bytes(8, "little") + data[8:],
    "a header that is no JSON": lambda data: with_header("{weights}", header_of(data)[1]),
    "a header that is no text": lambda data: with_header(b"\xff\xfe" * 40, header_of(data)[1]),
    "a list": lambda data: with_header("[1, 2]", header_of(data)[1]),
    "nested deeply": lambda data: with_header("[" * 200_000, header_of(data)[1]),
    "NaN for a shape": entry(shape=float("nan")),
    "a number for a tensor": changed(lambda header, key: header.update({key: 3})),
    "no shape": changed(lambda header, key: header[key].pop("shape")),
    "an unknown format": entry(dtype="F3"),
    "a list for a format": entry(dtype=["F32"]),
    "another shape": entry(shape=[3, 5, 7]),
    "a negative shape": entry(shape=[-1, -4]),
    "a shape of billions": entry(shape=[10**9, 10**9]),
    "a shape of no numbers": entry(shape=[0, 2**62]),
    "overlapping": shifted(-4, slice(0, 1)),
    "moved": shifted(4, slice(0, 2)),
    "past the end": shifted(10**12, slice(0, 2)),
    "a place of one number": entry(data_offsets=[0]),
    "backwards": changed(lambda header, key: header[key]["data_offsets"].reverse()),
    "cut short": lambda data: data[: len(data) - 100],
    "half": lambda data: data[: len(data) // 2],
    "cut in the header": lambda data: data[:60],
    "longer than its header states": lambda data: data + bytes(64),
    "a key twice": twice,
    "metadata of numbers": changed(lambda header, key: header.update({"__metadata__": {"a": 3}})),
    "a name of many lines": changed(lambda header, key: header.update({"a\nb\ud800" * 400: 3})),
    "a pickle by another name": lambda data: saved({"a": torch.zeros(4)}),
}


# Pickles


def saved(value, older: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not older)
    return file.getvalue()


def archive(files: dict[str, bytes], packed: bool = False) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as zip_file:
        for name, data in files.items():
            zip_file.writestr(name, data)
    return file.getvalue()


class Calls:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Claimed:
    """Pickled as a tensor that claims any size."""

    def __init__(self, held: int, offset: int = 0, size=(10**12,), stride=(1,)):
        self.held, self.view = held, (offset, size, stride)

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (_Storage(self.held), *self.view, False, OrderedDict())


class _Storage:
    def __init__(self, count: int):
        self.count = count


def claiming(value, older: bool = False) -> bytes:
    """A file whose one storage holds four numbers, whatever size it claims."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if isinstance(thing, _Storage):
                storage = "storage", torch.FloatStorage, "0", "cpu", thing.count
                return (*storage, None) if older else storage
            return None

    file = io.BytesIO()
    Pickler(file, 2).dump(value)
    if not older:
        held = {"data.pkl": file.getvalue(), "version": b"3\n", "byteorder": b"little", "data/0": bytes(16)}
        return archive({f"archive/{name}": data for name, data in held.items()})
    ends = saved({}, older=True).partition(pickle.dumps({}, 2))[0]
    keys = pickle.dumps(["0"], 2)
    return ends + file.getvalue() + keys + (4).to_bytes(8, "little") + bytes(16)


def itself() -> dict:
    """A dictionary inside itself."""
    held = {}
    held["state_dict"] = held
    return held


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(4))
    return file.getvalue()


def pickles(mark: Path) -> dict[str, Callable[[], bytes]]:
    """{kind: its bytes}. mark: a file that is there if one of them ran."""
    run = Calls(os.system, f"touch {mark}")
    weights = {"a": torch.zeros(600)}
    return {
        "nothing": lambda: b"",
        "a page": lambda: b"<!doctype html><title>404</title>",
        "noise": lambda: np.random.default_rng(0).bytes(5000),
        "a list": lambda: saved([torch.zeros(2)]),
        "an older list": lambda: saved([torch.zeros(2)], older=True),
        "a tensor": lambda: saved(torch.zeros(2)),
        "a number": lambda: saved(3),
        "numbers for names": lambda: saved({0: torch.zeros(2), 1: torch.zeros(2)}),
        "numbers for names inside": lambda: saved({"state_dict": {0: torch.zeros(2)}}),
        "texts alone": lambda: saved({"a": "b"}),
        "inside itself": lambda: saved(itself()),
        "half an archive": lambda: saved(weights)[:1500],
        "half an older file": lambda: saved(weights, older=True)[:1500],
        "a plain pickle": lambda: pickle.dumps({"a": [1.0, 2.0]}),
        "a plain older pickle": lambda: pickle.dumps({"a": [1.0, 2.0]}, 0),
        "numpy's pickle": lambda: pickle.dumps({"a": np.zeros(4)}, 2),
        "numpy inside": lambda: saved({"a": np.zeros(4)}),
        "numpy's archive": npz,
        "another archive": lambda: archive({"readme/a.txt": b"weights"}),
        "an archive of nothing": lambda: archive({}),
        "an archive with a text for a pickle": lambda: archive({"archive/data.pkl": b"weights"}),
        "an unfinished pickle": lambda: archive({"archive/data.pkl": b"\x80\x02}q\x00(X"}),
        "a pickle of nothing": lambda: archive({"archive/data.pkl": b"."}),
        "a program": lambda: saved({"a": run}),
        "an older program": lambda: saved({"a": run}, older=True),
        "a plain program": lambda: pickle.dumps(run),
        "a program first": lambda: pickle.dumps(run, 2) + saved(weights, older=True),
        "a module": lambda: saved(torch.nn.Linear(2, 2)),
        "safetensors by another name": lambda: with_header("{}", b""),
    }


def bombs() -> dict[str, Callable[[], bytes]]:
    """Small files of which little must be read: {kind: its bytes}."""
    wide = torch.zeros(1)
    return {
        "unpacks to much": lambda: archive({"archive/data.pkl": bytes(2**27)}, packed=True),
        "unpacks to a storage": lambda: archive(
            {"archive/data.pkl": saved_pickle(), "archive/data/0": bytes(2**26)}, packed=True
        ),
        "one number for all": lambda: saved({"a": wide.expand(10**12)}),
        "one number for all, inside": lambda: saved({"image_proj": {"latents": wide.expand(1, 10**6, 10**6)}}),
        "one number for all, older": lambda: saved({"a": wide.expand(10**12)}, older=True),
        "much by overlapping": lambda: saved({"a": torch.zeros(2000).as_strided((10**6, 10**6), (0, 0))}),
        "many of some": lambda: saved({f"{number}": wide.expand(10**9) for number in range(200)}),
        "a storage that is not there": lambda: claiming({"a": Claimed(10**12)}),
        "a storage that is not there, older": lambda: claiming({"a": Claimed(10**12)}, older=True),
        "beyond its storage": lambda: claiming({"a": Claimed(4)}),
        "beyond its storage, older": lambda: claiming({"a": Claimed(4)}, older=True),
        "before its storage": lambda: claiming({"a": Claimed(4, -(10**12), (2,), (1,))}),
        "backwards": lambda: claiming({"a": Claimed(4, 3, (2,), (-1,))}),
        "a great array of bytes": lambda: saved({"a": Calls(bytearray, 2 * 10**10)}),
        "a great array of bytes, older": lambda: saved({"a": Calls(bytearray, 2 * 10**10)}, older=True),
        "many lists": lambda: archive({"archive/data.pkl": b"\x80\x02" + b"]" * 2**24 + b"."}),
        "many older lists": lambda: saved({}, older=True).partition(pickle.dumps({}, 2))[0] + b"]" * 2**24,
    }


def saved_pickle() -> bytes:
    with zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(2**24)}))) as zip_file:
        return zip_file.read("archive/data.pkl")
