import hashlib

import pytest

from emg_lens.io.seals import BLANK, DamagedFileError, check_seal, seal, sealing


def sealed(path, before=b"head", after=b"x" * 3_000_000):
    with sealing(path) as partial:
        partial.write_bytes(before + BLANK.encode() + after)
    return path


def test_a_sealed_file_is_accepted_and_keeps_its_bytes(tmp_path):
    path = sealed(tmp_path / "f")
    content = path.read_bytes()
    assert check_seal(path) and len(content) == 4 + len(BLANK) + 3_000_000 and content.endswith(b"xxx")
    assert BLANK.encode() not in content


@pytest.mark.parametrize("at", [0, 3, 10, 40, 83, 84, 1_500_000, -1])
def test_a_changed_byte_is_refused(tmp_path, at):
    path = sealed(tmp_path / "f")
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    if 4 <= at < 4 + len("emg-lens-sha256:"):
        assert not check_seal(path)  # the mark itself: a file of other people, as far as can be seen
        return
    with pytest.raises(DamagedFileError, match="its checksum is wrong"):
        check_seal(path)


@pytest.mark.parametrize("cut", [1, 1_000_000, 2_999_999, 3_000_030])
def test_a_file_that_was_cut_or_grew_is_refused(tmp_path, cut):
    path = sealed(tmp_path / "f")
    content = path.read_bytes()
    for other in (content[:-cut], content + b"\0"):
        path.write_bytes(other)
        with pytest.raises(DamagedFileError):
            check_seal(path)


def test_a_file_of_other_people_has_no_checksum(tmp_path):
    (tmp_path / "f").write_bytes(b"no mark")
    assert not check_seal(tmp_path / "f")
    with pytest.raises(ValueError, match="0 places for a checksum"):
        seal(tmp_path / "f")
    (tmp_path / "f").write_bytes(BLANK.encode() * 2)
    with pytest.raises(ValueError, match="2 places"):
        seal(tmp_path / "f")


def test_the_checksum_is_the_sha256_of_the_file_with_zeros_in_its_place(tmp_path):
    path = tmp_path / "f"
    with sealing(path) as partial:
        partial.write_bytes(b"head " + BLANK.encode() + b" tail")
    known = hashlib.sha256(b"head emg-lens-sha256:" + b"0" * 64 + b" tail").hexdigest()
    assert path.read_bytes() == b"head emg-lens-sha256:" + known.encode() + b" tail"
