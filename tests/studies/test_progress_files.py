"""Files that tell other processes how far a fit is."""

from emg_lens.studies.runs import progress


def test_a_progress_file_is_not_written_more_often_than_it_is_read(tmp_path, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    replacing = progress.replacing
    monkeypatch.setattr(progress, "replacing", lambda path, **rest: written.append(path) or replacing(path, **rest))
    write = progress.progress_writer(tmp_path / "fit")
    for k in range(1000):  # in one second
        now[0] = k / 1000
        write(k / 1000)
    assert 10 <= len(written) <= 11
    assert 0.85 < progress._fraction(tmp_path / "fit", 0.0) < 1
