import pytest

from emg_lens.io.manifests import MANIFEST, check_manifest, write_manifest
from emg_lens.io.seals import DamagedFileError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n")
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "sub").mkdir()
    write_manifest(tmp_path)
    return tmp_path


def test_files_as_they_were_are_accepted(folder):
    check_manifest(folder)
    (folder / "new.txt").write_text("added later")
    check_manifest(folder)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder: (folder / "a.csv").write_text("1,3\n"), "a.csv was changed"),
        (lambda folder: (folder / "a.csv").unlink(), "is damaged .*No such file.*a.csv"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "is damaged"),
        (lambda folder: (folder / MANIFEST).write_text("3"), "is damaged"),
        (lambda folder: (folder / MANIFEST).write_text("[" * 100_000), "is damaged"),
        (lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe\xfd"), "is damaged"),
    ],
)
def test_damage_is_refused_in_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(DamagedFileError, match=message) as error:
        check_manifest(folder)
    assert "\n" not in str(error.value)


def test_some_files_alone_can_be_checked(folder):
    (folder / "a.csv").write_text("other")
    check_manifest(folder, ["b.json"])
    with pytest.raises(DamagedFileError, match="a.csv"):
        check_manifest(folder, ["a.csv", "b.json"])


def test_a_folder_of_a_former_version_has_no_checksums(tmp_path):
    check_manifest(tmp_path)
