"""Registries: objects of this package and of other packages, by name."""

from importlib.metadata import EntryPoint

import pytest

from emg_lens import registry
from emg_lens.registry import Registry, UnknownNameError


@pytest.fixture
def registry_and_searches(monkeypatch):
    """A registry with one registered object and one entry point, and the list of searches for entry points."""
    searches = []

    def offered(group: str) -> list[EntryPoint]:
        searches.append(group)
        return [EntryPoint("root", "math:sqrt", group)]

    monkeypatch.setattr(registry, "entry_points", offered)
    objects = Registry[object]("thing", f"tests.{id(searches)}")
    objects.add("ours", len)
    return objects, searches


def test_installed_packages_are_searched_once(registry_and_searches):
    objects, searches = registry_and_searches
    for _ in range(50):
        assert objects["root"](4.0) == 2.0 and objects["ours"] is len
        assert "root" in objects and "ours" in objects and objects.names() == ("ours", "root")
    assert len(searches) == 1


@pytest.mark.parametrize("name", ["rot", "", None, ["root"], 3])
def test_an_unknown_name_is_refused_with_the_known_names(registry_and_searches, name):
    objects, _ = registry_and_searches
    assert name not in objects
    with pytest.raises(UnknownNameError, match="known: ours, root"):
        objects[name]
