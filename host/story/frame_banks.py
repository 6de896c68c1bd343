"""Banks of a long story's characters: on disk, and in memory only while a batch reads them."""

from collections.abc import Sequence
from pathlib import Path

from ...core.attention.bank import Bank, Recording
from ..attention import bank_files
from ..common.run_folder import content_name


def keep_bank(bank: Bank, path: Path) -> None:
    """Write a bank to a file and free its memory: from then on it is empty."""
    bank_files.save(bank, path)
    for recording in bank.recordings:
        recording.tokens.clear()
        recording.indices.clear()
    bank.recordings = []


class StoredBank(Bank):
    """A bank of files, and of another bank if there is one. Files are read when somebody asks for the recordings."""

    def __init__(self, paths: Sequence[Path], bank: Bank | None = None):
        self._read: list[Recording] | None = None
        super().__init__()
        self.paths, self.bank = list(paths), bank

    @property
    def recordings(self) -> list[Recording]:
        if self._read is None:
            self._read = [] if self.bank is None else list(self.bank.recordings)
            for path in self.paths:
                self._read += bank_files.load_file(path).recordings
        return self._read

    @recordings.setter
    def recordings(self, recordings: list[Recording]) -> None:
        """Nothing: they come from the files."""

    def release(self) -> None:
        """Free the memory. The files are read again if somebody asks again."""
        self._read = None


def character_keys(bank: Bank) -> dict[str, str]:
    """{character: a name for what the bank holds of that one}."""
    return {name: _content_of(bank, name) for name in sorted(bank.characters)}


def _content_of(bank: Bank, name: str) -> str:
    content = []
    for place in bank.images_of(frozenset({name})):
        recording, image = bank.images[place]
        origin = vars(recording.origin)
        tokens = {key: value for key, value in recording.tokens.items() if key[0] == image}
        indices = {key: value for key, value in recording.indices.items() if key[0] == image}
        content.append([origin, recording.images[image].number, recording.layers, indices, tokens])
    return content_name(content, "")
