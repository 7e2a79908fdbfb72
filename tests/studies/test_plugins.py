"""Fits of a study whose model another package offers: its version and source belong to each fit."""

import importlib
import json
import sys

import pytest
import yaml
from tiny import TINY

from emg_lens import registry
from emg_lens.registry import plugin_versions
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.study import Study

NET = """
from dataclasses import dataclass
from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.registry import Architecture
from width_lab.sizes import FACTOR

@dataclass
class WideConfig(EncoderConfig):
    model_name = "wide"

class Wide(HookedBiosignalEncoder):
    def __init__(self, config: WideConfig) -> None:
        super().__init__(config)

    def forward(self, input, *args, **kwargs):
        return FACTOR * super().forward(input, *args, **kwargs)

WIDE = Architecture("wide", WideConfig, Wide)
"""


class Lab:
    """An installed package with the model `wide`."""

    def __init__(self, folder):
        self.folder, self.sizes = folder, folder / "width_lab" / "sizes.py"
        self.sizes.parent.mkdir()
        (folder / "width_lab" / "__init__.py").touch()
        (folder / "width_lab" / "net.py").write_text(NET)
        self.sizes.write_text("FACTOR = 2\n")
        self.install("0.1")

    def install(self, version):
        for old in self.folder.glob("*.dist-info"):
            old.rename(self.folder / f"width_lab-{version}.dist-info")
        info = self.folder / f"width_lab-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: width-lab\nVersion: {version}\n")
        (info / "entry_points.txt").write_text("[emg_lens.models]\nwide = width_lab.net:WIDE\n")
        forget()


def forget():
    registry._plugins.cache_clear()
    registry._entry_points.cache_clear()
    importlib.invalidate_caches()


@pytest.fixture
def lab(tmp_path, monkeypatch):
    folder = tmp_path / "lab"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield Lab(folder)
    for name in [name for name in sys.modules if name.startswith("width_lab")]:
        del sys.modules[name]
    monkeypatch.undo()
    forget()


def test_fits_of_old_and_new_code_of_a_plug_in_are_never_averaged(lab, tmp_path):
    content = yaml.safe_load(TINY)
    content["model"] = {"architecture": "wide", "d_model": 8, "n_heads": 2, "n_layers": 1, "d_mlp": 8}
    content["conditions"] = {"layer_masks": {"modes": ["individual"]}, "removals": None, "controls": None}
    study = Study.parse(yaml.safe_dump(content))
    done = study.run(out=tmp_path, jobs=1)
    used = plugin_versions({"wide"})["width-lab"]
    assert done.facts["plugins"].tolist() == [{"width-lab": used}] * 3 and used.startswith("0.1, source ")
    assert f"plug-in width-lab</dt><dd>{used}</dd>" in done.report()
    card = (done.folders[0] / "README.md").read_text()
    assert f"width-lab {used}" in card
    lab.sizes.write_text("FACTOR = 3\n")
    lab.install("0.2")
    message = rf"plug-in width-lab \({used}; now 0.2, source .*give another --out, or restore the old code"
    with pytest.raises(StudyError, match=message):
        study.run(out=tmp_path, jobs=1)
    lab.sizes.write_text("FACTOR = 2\n")
    lab.install("0.1")
    assert study.run(out=tmp_path, jobs=1).report() == done.report()


def test_a_report_names_every_code_of_a_plug_in(lab, tmp_path):
    content = yaml.safe_load(TINY)
    content["model"] = {"architecture": "wide", "d_model": 8, "n_heads": 2, "n_layers": 1, "d_mlp": 8}
    content["conditions"] = {"layer_masks": {"modes": ["individual"]}, "removals": None, "controls": None}
    done = Study.parse(yaml.safe_dump(content)).run(out=tmp_path, jobs=1)
    done.facts.at[0, "plugins"] = {"width-lab": "0.0, source 0"}
    assert "0.0, source 0 (1 of 3 fits)" in done.report() and "different versions" in done.report()


def test_the_source_of_a_plug_in_is_that_of_its_package(lab):
    before = plugin_versions({"wide"})
    assert plugin_versions({"wide", "isonet"}) == before and plugin_versions({"isonet"}) == {}
    (lab.folder / "elsewhere.py").write_text("")
    assert plugin_versions({"wide"}) == before
    (lab.folder / "width_lab" / "more.py").write_text("")
    assert plugin_versions({"wide"}) != before


def test_a_plug_in_of_single_modules_has_the_source_of_them_all(lab):
    info = next(lab.folder.glob("*.dist-info"))
    (info / "entry_points.txt").write_text("[emg_lens.models]\nwide = lab_net:WIDE\n")
    (info / "top_level.txt").write_text("lab_net\nlab_sizes\n")
    for name in ("lab_net", "lab_sizes"):
        (lab.folder / f"{name}.py").write_text("")
    forget()
    before = plugin_versions({"wide"})
    (lab.folder / "lab_sizes.py").write_text("FACTOR = 2\n")
    assert plugin_versions({"wide"}) != before


def test_studies_without_plug_ins_name_none(tmp_path):
    content = yaml.safe_load(TINY)
    content["cohort"]["options"]["simulation"]["n_subjects"] = 1
    content["conditions"] = {"layer_masks": {"modes": ["individual"]}, "removals": None, "controls": None}
    done = Study.parse(yaml.safe_dump(content)).run(out=tmp_path, jobs=1)
    assert json.loads((done.folders[0] / "fit.json").read_text())["plugins"] == {}
    assert "plug-in" not in done.report()
