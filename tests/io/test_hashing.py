"""A file is read once, again after a change, and every time if the cache cannot be used."""

import hashlib
import os
import shutil

import pytest

from emg_lens.io import hashing as module
from emg_lens.io.hashing import content_hashes, why_not_cached


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "emg-lens" / "content_hashes.json"


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read."""
    names = []
    digest = hashlib.file_digest
    monkeypatch.setattr(
        module.hashlib, "file_digest", lambda file, kind: (names.append(file.name), digest(file, kind))[1]
    )
    return names


def test_a_file_is_read_once_and_again_when_it_changed(tmp_path, cache, read):
    path = tmp_path / "a.mat"
    path.write_bytes(b"abc")
    first = content_hashes([path])
    assert first == {path: hashlib.sha256(b"abc").hexdigest()} == content_hashes([path])
    assert len(read) == 1
    path.write_bytes(b"xyz")
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert content_hashes([path]) != first and len(read) == 2
    other = tmp_path / "b.mat"
    other.write_bytes(b"xyz")
    os.utime(other, ns=(1, path.stat().st_mtime_ns))
    other.replace(path)  # same name, size, time and content, another inode
    content_hashes([path])
    assert len(read) == 3


def test_a_changed_file_with_the_same_size_and_modification_time_is_read_again(tmp_path, cache):
    path, other = tmp_path / "a.h5", tmp_path / "b.h5"
    path.write_bytes(b"before")
    other.write_bytes(b"after!")
    for one in (path, other):
        os.utime(one, ns=(10**18, 10**18))
    before = content_hashes([path])[path]
    shutil.copyfile(other, path)  # in place, as cp -p and unpacked archives leave it
    os.utime(path, ns=(10**18, 10**18))
    assert content_hashes([path])[path] != before


@pytest.mark.parametrize("held", ["", "[]", '{"a": 3}', '{"a": [1, 2, 3, 4]}', "no json", "\x00"])
def test_a_damaged_cache_is_ignored(tmp_path, cache, held):
    path = tmp_path / "a.mat"
    path.write_bytes(b"abc")
    cache.parent.mkdir(parents=True)
    cache.write_text(held)
    assert content_hashes([path]) == {path: hashlib.sha256(b"abc").hexdigest()}


def test_without_a_cache_files_are_read_every_time(tmp_path, monkeypatch, read):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    path = tmp_path / "a.mat"
    path.write_bytes(b"abc")
    assert content_hashes([path]) == content_hashes([path]) and len(read) == 2
    assert str(why_not_cached()).startswith(f"{blocked / 'emg-lens'} cannot be written to (")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert why_not_cached() is None and not [*(tmp_path / "cache" / "emg-lens").iterdir()]


def test_a_missing_file_is_an_error(tmp_path, cache):
    with pytest.raises(FileNotFoundError):
        content_hashes([tmp_path / "none.mat"])
