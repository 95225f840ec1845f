"""Plug-ins by entry points: found once, and one that fails does not end the others."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from dukd.core import registry
from dukd.networks import NetworkConfig

GOOD = """
from dukd.networks import EDSRConfig

class GuestEDSR(EDSRConfig):
    name = "guest_edsr"
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    (tmp_path / "good_plugin.py").write_text(GOOD)
    (tmp_path / "bad_plugin.py").write_text("raise OSError('no such library')")
    monkeypatch.syspath_prepend(str(tmp_path))
    group = registry.GROUP
    plugins = [EntryPoint("bad", "bad_plugin", group), EntryPoint("good", "good_plugin", group)]
    monkeypatch.setattr(registry, "entry_points", lambda group: plugins if group else [])
    monkeypatch.setattr(registry, "_loaded", set[str]())
    return plugins


@pytest.mark.usefixtures("installed")
def test_installed_plug_ins_are_imported_when_classes_are_looked_for() -> None:
    sentence = r"plug-in 'bad' of an unknown package \(bad_plugin\) cannot be imported.*OSError: no"
    with pytest.warns(RuntimeWarning, match=sentence):
        found = registry.known(NetworkConfig)

    assert found["guest_edsr"].__module__ == "good_plugin"
    assert registry.known(NetworkConfig)["guest_edsr"] is found["guest_edsr"]
