"""Archives come back as they were packed, with the same bytes each time; damaged and hostile ones leave nothing."""

import random
import stat
import zipfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from emg_lens.errors import EmgLensError
from emg_lens.io import archives
from emg_lens.io.archives import ArchiveError, pack, unpack
from emg_lens.io.checksums import CHECKSUMS, write_checksums

PARTS = st.text("abcXYZ019_-+é", min_size=1, max_size=6)
FILES = st.dictionaries(st.lists(PARTS, min_size=1, max_size=3).map("/".join), st.binary(max_size=200), min_size=1)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: text for name, text in found.items() if name != CHECKSUMS}


def distinct(files: dict[str, bytes]) -> bool:
    """No two paths are equal without case, and none is the folder of another."""
    names = [name.casefold() for name in files]
    return len(set(names)) == len(names) and not any(b.startswith(f"{a}/") for a in names for b in names)


@settings(max_examples=30, deadline=None)
@given(FILES.filter(distinct))
def test_files_come_back_and_bytes_are_the_same(tmp_path_factory, files):
    one, two = (write(tmp_path_factory.mktemp("run"), files) for _ in range(2))
    packed = [tmp_path_factory.mktemp("zip") / "a.zip" for _ in range(2)]
    for folder, archive in zip((one, two), packed, strict=True):
        pack(folder, "study/0123", archive)
    assert packed[0].read_bytes() == packed[1].read_bytes()
    unpack(packed[0], packed[0].parent / "out")
    assert content(packed[0].parent / "out") == files


@pytest.fixture
def archive(tmp_path) -> Path:
    files = {"spec.yaml": b"name: x\n" * 20, "fits/01/scores.csv": b"a,b\n1,2\n" * 50, "data.json": b"{}"}
    folder = write(tmp_path / "run", files)
    pack(folder, "x/1", tmp_path / "good.zip")
    return tmp_path / "good.zip"


def refused(archive: Path, message: str | None = None) -> str:
    """The error of an archive that leaves nothing behind."""
    before = sorted(archive.parent.iterdir())
    with pytest.raises(ArchiveError, match=message) as error:
        unpack(archive, archive.parent / "out")
    assert sorted(archive.parent.iterdir()) == before
    assert "\n" not in str(error.value) and "nothing was unpacked" in str(error.value)
    return str(error.value)


def changed(archive: Path, **more: bytes) -> Path:
    """The archive with more entries, which its list does not have."""
    path = archive.with_name("changed.zip")
    path.write_bytes(archive.read_bytes())
    with zipfile.ZipFile(path, "a") as file:
        for name, text in more.items():
            file.writestr(name, text)
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../out.txt", "path '../out.txt' is not allowed"),
        ("x/1/../../../out.txt", "is not allowed"),
        ("/etc/cron.d/x", "is not allowed"),
        ("x\\..\\..\\out.txt", "is not allowed"),
        ("C:/out.txt", "is not allowed"),
        ("x/1/a\nb", "is not allowed"),
        ("x/1/" + "a" * 300, "is not allowed"),
        ("x/1/" + "a/" * 20 + "b", "is not allowed"),
        ("x/1/con. ", "is not allowed"),
        ("other/file", "'other/file' is not in the folder 'x/1'"),
        ("x/1/extra.csv", "checksums.json and its files disagree about 'extra.csv'"),
        ("x/1/SPEC.yaml", "two of its files have the same path"),
        ("x/1/fits/01", "two of its files have the same path"),
    ],
)
def test_paths_that_lead_elsewhere_and_additional_files_are_refused(archive, name, message):
    refused(changed(archive, **{name: b"evil"}), message)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(archive, kind):
    with zipfile.ZipFile(archive, "a") as file:
        link = zipfile.ZipInfo("x/1/link")
        link.create_system, link.external_attr = 3, (kind | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    refused(archive, "'x/1/link' is a link or a device")


def test_content_that_is_far_larger_than_the_archive_is_refused(archive, monkeypatch):
    monkeypatch.setattr(archives, "LARGE", 1 << 20)
    folder = write(archive.parent / "bomb", {"zeros": bytes(8 << 20)})
    pack(folder, "x/1", archive)
    refused(archive, "8.0 GiB would be unpacked from")
    monkeypatch.setattr(archives, "MOST_FILES", 1)
    refused(archive, "it has 2 files, more than 1")


def test_an_archive_that_states_a_smaller_size_is_refused(archive):
    name = b"x/1/spec.yaml"
    with zipfile.ZipFile(archive) as file:
        size = file.getinfo(name.decode()).file_size.to_bytes(4, "little")
    raw = archive.read_bytes()
    place = raw.rindex(name) - 46 + 24  # the uncompressed size in the central directory
    assert raw[place : place + 4] == size
    archive.write_bytes(raw[:place] + (10).to_bytes(4, "little") + raw[place + 4 :])
    refused(archive)


def test_files_that_do_not_match_their_checksums_are_refused(archive):
    with zipfile.ZipFile(archive) as file:
        files = {name: file.read(name) for name in file.namelist()}
    files["x/1/data.json"] = b"[]"
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in files.items():
            file.writestr(name, text)
    assert "data.json was changed after it was written" in refused(archive)


def test_an_archive_packed_by_hand_is_read(archive):
    unpack(archive, archive.parent / "out")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:  # other settings, with folders, without "x/1"
        file.mkdir("fits")
        for name, text in {**content(archive.parent / "out"), CHECKSUMS: (archive.parent / "out" / CHECKSUMS)}.items():
            file.writestr(name, text if isinstance(text, bytes) else text.read_bytes())
    unpack(archive, archive.parent / "again")
    assert content(archive.parent / "again") == content(archive.parent / "out")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_archives_are_refused_or_complete(archive, seed):
    """200 random damages of the bytes: a flipped bit, a cut, a hole, a repetition."""
    rng, good = random.Random(seed), archive.read_bytes()
    unpack(archive, archive.parent / "good")
    expected = content(archive.parent / "good")
    path = archive.parent / "damaged.zip"
    for k in range(50):
        raw, at = bytearray(good), rng.randrange(len(good))
        match k % 4:
            case 0:
                raw[at] ^= 1 << rng.randrange(8)
            case 1:
                del raw[at:]
            case 2:
                del raw[at : at + rng.randrange(1, 40)]
            case 3:
                raw[at:at] = raw[: rng.randrange(1, 40)]
        path.write_bytes(raw)
        out = archive.parent / f"out{k}"
        try:
            unpack(path, out)
        except EmgLensError as error:
            assert "\n" not in str(error) and not out.exists()
        else:
            assert content(out) == expected
    assert not list(archive.parent.glob(".*"))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_any_other_file_is_refused_in_one_line(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("any") / "a.zip"
    path.write_bytes(raw)
    refused(path)


def test_a_list_that_names_files_elsewhere_is_refused(archive, tmp_path):
    (tmp_path / "secret").write_text("x")
    folder = write(tmp_path / "made", {"a": b"1"})
    write_checksums(folder, ["a", "../secret"])
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.iterdir():
            file.write(path, f"x/1/{path.name}")
    refused(archive, "disagree about '../secret'")
