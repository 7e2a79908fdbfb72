"""The licence of recordings is what their README says, or nothing."""

import pytest

from emg_lens.data.licence import MOST_LETTERS, licence_line


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ""),
        ({"README.md": "# Data\nNo word about terms.\n"}, ""),
        ({"README.md": "# Data\n- **License**: CC BY 4.0 (see `LICENSE`)\n"}, "CC BY 4.0 (see LICENSE)"),
        ({"readme.txt": "Licence: none stated.\n", "LICENSE": "MIT License\n\nCopyright"}, "none stated."),
        ({"README.md": "Cite: Lo et al. (2018). Licence: not stated. Ask us."}, "not stated. Ask us."),
        ({"LICENSE.txt": "\nMIT License\n\nCopyright"}, "MIT License"),
        ({"README.md": "licensed " + "x" * 5000}, "licensed " + "x" * (MOST_LETTERS - 9) + "..."),
        ({"notes.md": "License: MIT"}, ""),
    ],
)
def test_the_line_about_the_licence_is_found(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert licence_line(tmp_path) == expected
    (tmp_path / "trials.h5").touch()
    assert licence_line(tmp_path / "trials.h5") == expected


def test_no_folder_and_files_that_are_no_text_name_no_licence(tmp_path):
    assert licence_line(None) == licence_line(tmp_path / "nowhere") == ""
    (tmp_path / "README").write_bytes(b"\xff\x00licence\x00 \xfe\x1b[31m")
    assert licence_line(tmp_path).isprintable()
    (tmp_path / "README").unlink()
    (tmp_path / "README.md").mkdir()
    assert licence_line(tmp_path) == ""
