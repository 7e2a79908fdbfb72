"""Things that are registered under a name, by us and by other packages."""

from importlib.metadata import EntryPoint

import pytest

from emg_lens import registry
from emg_lens.registry import Registry, UnknownNameError


@pytest.fixture
def things(monkeypatch):
    """A registry with one thing of ours and one that another package offers, and how often packages were asked."""
    asked = []

    def offered(group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint("root", "math:sqrt", group)]

    monkeypatch.setattr(registry, "entry_points", offered)
    found = Registry[object]("thing", f"tests.{id(asked)}")
    found.add("ours", len)
    return found, asked


def test_installed_packages_are_asked_once_whatever_is_looked_up(things):
    found, asked = things
    for _ in range(50):
        assert found["root"](4.0) == 2.0 and found["ours"] is len
        assert "root" in found and "ours" in found and found.names() == ("ours", "root")
    assert len(asked) == 1


@pytest.mark.parametrize("name", ["rot", "", None, ["root"], 3])
def test_what_is_no_name_is_refused_with_those_that_are(things, name):
    found, _ = things
    assert name not in found
    with pytest.raises(UnknownNameError, match="known: ours, root"):
        found[name]
