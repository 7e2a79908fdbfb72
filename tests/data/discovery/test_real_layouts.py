"""Four published data sets, treated as unknown: what `emg-lens new` describes is what our own loaders read."""

import numpy as np
import pytest

from emg_lens.data import load_dataset
from emg_lens.data.discovery.known_layouts import known_data_set
from emg_lens.data.discovery.proposal import described_proposal

pytestmark = pytest.mark.slow

SETS = {  # folder -> loader, one subject, scale of our loader's samples, whether labels agree
    "ninapro_db5": ("ninapro-db5", "S1", {"emg": 1, "acc": 1}),
    "psl_myo": ("psl-myo", "person2", {"emg": 1, "acc": 2048, "gyro": 16, "quat": 16384}),
    "uci_emg_gestures": ("uci-emg", "03", {"emg": 1}),
    "myo_force": ("myo-force", "v5", {"emg": 1, "force": 1}),
}


@pytest.mark.parametrize("folder", SETS)
def test_a_published_folder_is_described_as_its_loader_reads_it(real, folder, tmp_path):
    loader, subject, scales = SETS[folder]
    root = real(folder)
    assert known_data_set(root) == loader
    found = described_proposal(root, None, lambda _, items, __: items)
    description = tmp_path / "dataset.yaml"
    description.write_text(found.description)
    ours = list(load_dataset(loader, root, subjects=[subject]))
    described = list(load_dataset("folder", root, subjects=[subject], description=str(description)))
    assert len(ours) == len(described)
    by_name = {recording.source: recording for recording in described}
    for recording in ours:
        other = by_name[recording.source]
        for name, scale in scales.items():
            one, two = recording.signals[name], other.signals[name]
            np.testing.assert_allclose(two.data, one.data * scale, rtol=1e-5, err_msg=name)
            assert two.fs == pytest.approx(one.fs, rel=0.02)
        active = recording.label > 0
        np.testing.assert_array_equal(active, other.label > 0)
        named = {int(label): other.meta["class_names"][label] for label in np.unique(other.label[active])}
        if folder != "myo_force":
            assert [f"gesture {n}" for n in np.unique(recording.label[active])] == sorted(named.values(), key=len)
