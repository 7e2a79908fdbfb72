import hashlib

import pytest

from emg_lens.io.checksums import (
    CHECKSUMS,
    PLACEHOLDER,
    DamagedFileError,
    check_checksums,
    check_file,
    insert_checksum,
    read_json,
    replacing_with_checksum,
    write_checksums,
    write_json,
)


def with_checksum(path, before=b"head", after=b"x" * 3_000_000):
    with replacing_with_checksum(path) as partial:
        partial.write_bytes(before + PLACEHOLDER.encode() + after)
    return path


def test_an_unchanged_file_is_accepted_and_only_the_placeholder_is_replaced(tmp_path):
    path = with_checksum(tmp_path / "f")
    content = path.read_bytes()
    assert check_file(path) and len(content) == 4 + len(PLACEHOLDER) + 3_000_000 and content.endswith(b"xxx")
    assert PLACEHOLDER.encode() not in content


@pytest.mark.parametrize("at", [0, 3, 10, 40, 83, 84, 1_500_000, -1])
def test_a_changed_byte_is_refused(tmp_path, at):
    path = with_checksum(tmp_path / "f")
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    if 4 <= at < 4 + len("emg-lens-sha256:"):
        assert not check_file(path)  # the mark itself: this looks like a file of another program
        return
    with pytest.raises(DamagedFileError, match="its checksum is wrong"):
        check_file(path)


@pytest.mark.parametrize("cut", [1, 1_000_000, 2_999_999, 3_000_030])
def test_a_file_that_was_cut_or_grew_is_refused(tmp_path, cut):
    path = with_checksum(tmp_path / "f")
    content = path.read_bytes()
    for other in (content[:-cut], content + b"\0"):
        path.write_bytes(other)
        with pytest.raises(DamagedFileError):
            check_file(path)


def test_a_file_of_another_program_has_no_checksum(tmp_path):
    (tmp_path / "f").write_bytes(b"no mark")
    assert not check_file(tmp_path / "f")
    with pytest.raises(ValueError, match="0 placeholders for a checksum"):
        insert_checksum(tmp_path / "f")
    (tmp_path / "f").write_bytes(PLACEHOLDER.encode() * 2)
    with pytest.raises(ValueError, match="2 placeholders"):
        insert_checksum(tmp_path / "f")


def test_the_checksum_is_the_sha256_of_the_file_with_zeros_in_its_place(tmp_path):
    path = tmp_path / "f"
    with replacing_with_checksum(path) as partial:
        partial.write_bytes(b"head " + PLACEHOLDER.encode() + b" tail")
    known = hashlib.sha256(b"head emg-lens-sha256:" + b"0" * 64 + b" tail").hexdigest()
    assert path.read_bytes() == b"head emg-lens-sha256:" + known.encode() + b" tail"


def test_json_comes_back_without_its_checksum_and_a_change_is_refused(tmp_path):
    path = tmp_path / "f.json"
    write_json(path, {"a": [1, "müller"], "b": None})
    assert read_json(path) == {"a": [1, "müller"], "b": None}
    path.write_text(path.read_text().replace("1", "2"))
    with pytest.raises(DamagedFileError, match="its checksum is"):
        read_json(path)
    path.write_text('{"a": 1}')
    with pytest.raises(DamagedFileError, match="its checksum is missing"):
        read_json(path)


# --- the files of a folder --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n")
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "sub").mkdir()
    write_checksums(tmp_path)
    return tmp_path


def test_files_as_they_were_are_accepted(folder):
    check_checksums(folder)
    (folder / "new.txt").write_text("added later")
    check_checksums(folder)


def renamed_in_the_list(folder):
    (folder / CHECKSUMS).write_text((folder / CHECKSUMS).read_text().replace("a.csv", "c.csv"))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder: (folder / "a.csv").write_text("1,3\n"), "a.csv was changed"),
        (lambda folder: (folder / "a.csv").unlink(), "is damaged .*No such file.*a.csv"),
        (lambda folder: (folder / CHECKSUMS).write_text("{"), "its checksum is missing"),
        (lambda folder: (folder / CHECKSUMS).unlink(), "is damaged"),
        (lambda folder: (folder / CHECKSUMS).write_text("[" * 100_000), "its checksum is missing"),
        (lambda folder: (folder / CHECKSUMS).write_bytes(b"\xff\xfe\xfd"), "its checksum is missing"),
        (lambda folder: renamed_in_the_list(folder), "checksums.json was changed"),
    ],
)
def test_damage_is_refused_in_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(DamagedFileError, match=message) as error:
        check_checksums(folder)
    assert "\n" not in str(error.value)


def test_only_the_named_files_are_checked(folder):
    (folder / "a.csv").write_text("other")
    check_checksums(folder, ["b.json"])
    with pytest.raises(DamagedFileError, match="a.csv"):
        check_checksums(folder, ["a.csv", "b.json"])


def test_large_files_are_read_again_only_after_a_change(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_checksums(folder, ["a.csv"], large=True)
    check_checksums(folder, large=True)
    (folder / "a.csv").write_text("1,3\n")
    with pytest.raises(DamagedFileError, match="a.csv was changed"):
        check_checksums(folder, large=True)
