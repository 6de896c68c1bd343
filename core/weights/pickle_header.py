"""What a pickle of torch.save holds, read from its text alone: nothing is unpickled, called or allocated.

A pickle is a program for a small stack machine. Of its steps only those are followed that a file of weights needs; in
the place of a tensor stands where its numbers lie and how many it claims.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import torch

from ..text import short
from .refusal import Unreadable

STORAGES = {  # bytes of a number, by the name of a storage
    "torch.storage.UntypedStorage": 1,
    **{f"torch.{name}Storage": 1 for name in ("Byte", "Char", "Bool")},
    **{f"torch.{name}Storage": 2 for name in ("Half", "BFloat16", "Short")},
    **{f"torch.{name}Storage": 4 for name in ("Float", "Int")},
    **{f"torch.{name}Storage": 8 for name in ("Double", "Long", "ComplexFloat")},
    "torch.ComplexDoubleStorage": 16,
}
MOST_SIDES = 64
MOST_WAITING = 2**16  # values on the stack; torch.save puts a thousand there
MOST_COPIED = 10**6  # entries of ordered dictionaries that are made of lists


class Another(Exception):
    """Not the pickle of a file of weights."""


@dataclass(frozen=True)
class Storage:
    """count: numbers that it claims, of so many bytes each."""

    key: str
    bytes_each: int
    count: int


@dataclass(frozen=True)
class Stored:
    """A tensor that claims count numbers, of so many bytes each, in a storage."""

    storage: Storage
    count: int
    bytes_each: int


class Name(str):
    """Of what a pickle would import."""


class _Machine:
    """memo and stack as `pickletools` describes them."""

    def __init__(self):
        self.stack: list = []
        self.marks: list[list] = []
        self.memo: dict[int, object] = {}
        self.storages: dict[str, Storage] = {}
        self.tensors: list[Stored] = []
        self.copied = 0

    def marked(self) -> list:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def take(self, count: int) -> list:
        if len(self.stack) < count:
            raise Another
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def step(self, name: str, argument) -> None:
        if name in ARGUMENTS:
            self.stack.append(argument)
        elif name in VALUES:
            self.stack.append(VALUES[name]())
        elif name == "MARK":
            self.marks.append(self.stack)
            self.stack = []
        elif name == "TUPLE":
            items = tuple(self.marked())
            self.stack.append(items)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(tuple(self.take(int(name[-1]))))
        elif name in ("APPEND", "APPENDS"):
            items = self.take(1) if name == "APPEND" else self.marked()
            self.top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self.take(2) if name == "SETITEM" else self.marked()
            self.top(dict).update(zip(items[::2], items[1::2], strict=True))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "GLOBAL":
            self.stack.append(_known(argument.replace(" ", ".")))
        elif name == "BINPERSID":
            self.stack.append(self.storage(*self.take(1)))
        elif name in ("REDUCE", "NEWOBJ"):
            made, arguments = self.take(2)
            self.stack.append(self.call(made, arguments))
        elif name == "BUILD":
            self.take(1)  # what a state_dict says of its versions
            self.top(dict)
        else:
            raise Another

    def top(self, kind: type):
        if not self.stack or type(self.stack[-1]) is not kind:
            raise Another
        return self.stack[-1]

    def storage(self, entry) -> Storage:
        if not isinstance(entry, tuple) or len(entry) not in (5, 6) or entry[0] != "storage":
            raise Another
        _, kind, key, _, count = entry[:5]
        if kind not in STORAGES or not isinstance(key, str) or not _is_count(count) or entry[5:] not in ((), (None,)):
            raise Another
        found = Storage(key, STORAGES[kind], count)
        known = self.storages.setdefault(key, found)
        if known.count * known.bytes_each != count * found.bytes_each:
            raise Another
        return found

    def call(self, made, arguments):
        maker = MAKERS.get(made) if isinstance(made, Name) else None
        if maker is None or not isinstance(arguments, tuple):
            raise Another
        return maker(self, *arguments)

    def dictionary(self, items=()) -> dict:
        self.copied += len(items)
        if self.copied > MOST_COPIED:
            raise Another
        return dict(items)

    def size(self, sides=()) -> tuple:
        if not isinstance(sides, tuple):
            raise Another
        return sides

    def parameter(self, tensor, *_) -> Stored:
        if not isinstance(tensor, Stored):
            raise Another
        return tensor

    def tensor(self, storage, offset, size, stride, *_) -> Stored:
        if not isinstance(storage, Storage):
            raise Another
        return self.view(storage, storage.bytes_each, storage.count, offset, size, stride)

    def tensor_of(self, storage, offset, size, stride, _, __, dtype, *___) -> Stored:
        """One whose storage does not know its format."""
        found = getattr(torch, dtype.rpartition(".")[2], None) if isinstance(dtype, Name) else None
        if not isinstance(storage, Storage) or not isinstance(found, torch.dtype):
            raise Another
        count = storage.count * storage.bytes_each // found.itemsize
        return self.view(storage, found.itemsize, count, offset, size, stride)

    def view(self, storage: Storage, bytes_each: int, held: int, offset, size, stride) -> Stored:
        if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
            raise Another
        if len(size) > MOST_SIDES or not all(map(_is_count, (offset, *size, *stride))):
            raise Another
        count, last = 1, offset
        for side, step in zip(size, stride, strict=True):
            count, last = count * side, last + (side - 1) * step
        if count and last >= held:
            raise Unreadable(
                f"claims a tensor of {short(count)} numbers that ends at number {short(last + 1)} of {short(held)}; "
                "tensors inside the file were expected"
            )
        self.tensors.append(Stored(storage, count, bytes_each))
        return self.tensors[-1]


ARGUMENTS = ("BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "LONG1", "SHORT_BINSTRING")  # put on the stack
VALUES: dict[str, Callable] = {  # steps that put a value on the stack
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
MAKERS: dict[str, Callable] = {
    "collections.OrderedDict": _Machine.dictionary,
    "torch.Size": _Machine.size,
    "torch._utils._rebuild_tensor": _Machine.tensor,
    "torch._utils._rebuild_tensor_v2": _Machine.tensor,
    "torch._utils._rebuild_tensor_v3": _Machine.tensor_of,
    "torch._utils._rebuild_parameter": _Machine.parameter,
    "torch.nn.parameter.Parameter": _Machine.parameter,
}


def _known(name: str) -> Name:
    module, _, last = name.rpartition(".")
    if name not in MAKERS and name not in STORAGES:
        if module != "torch" or not isinstance(getattr(torch, last, None), torch.dtype):
            raise Unreadable(
                f"holds Python objects as well as weights, {short(name)} among them, which are never loaded here; a "
                "file of weights alone, such as safetensors, was expected"
            )
    return Name(name)


def _is_count(value) -> bool:
    return type(value) is int and value >= 0


@dataclass(frozen=True)
class Pickled:
    """value: with `Stored` for tensors. storages: by their keys."""

    value: object
    storages: dict[str, Storage]
    tensors: list[Stored]


def read_pickle(stream: BinaryIO) -> Pickled:
    """The next pickle of a stream, up to its end. Raises Another, and Unreadable for one that holds other objects."""
    machine = _Machine()
    try:
        for operation, argument, _ in pickletools.genops(stream):
            if operation.name == "STOP":
                return Pickled(machine.stack.pop(), machine.storages, machine.tensors)
            if operation.name != "PROTO":
                machine.step(operation.name, argument)
            if len(machine.stack) + len(machine.marks) > MOST_WAITING:
                raise Another
    except (Unreadable, Another):
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Another from error
    raise Another
