"""The cache of the tests fills a folder once for each digest, and never keeps an unfinished one."""

import pytest
from harness.cache import cached, digest_of


def test_a_folder_is_filled_once_and_again_when_a_source_changes(tmp_path):
    source, cache, runs = tmp_path / "source", tmp_path / "cache", []
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "a.py").write_text("1")

    def fill(folder):
        runs.append(folder)
        (folder / "file").write_text(str(len(runs)))

    def get(*settings):
        return cached("some", digest_of([source], *settings), fill, cache)

    assert get() == get() and (get() / "file").read_text() == "1"
    assert (get("another setting") / "file").read_text() == "2"
    (source / "deep" / "a.py").write_text("2")
    last = get("another setting")
    assert (last / "file").read_text() == "3" and [path.name for path in cache.iterdir()] == [last.name]


def test_a_folder_that_failed_half_way_is_filled_again(tmp_path):
    def fail(folder):
        (folder / "half").touch()
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        cached("some", "0", fail, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert list(cached("some", "0", lambda folder: (folder / "whole").touch(), tmp_path).iterdir()) == [
        tmp_path / "some-0" / "whole"
    ]
