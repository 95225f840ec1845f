"""The notebooks of the documentation run from their first cell to their last."""

import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    assert not [c for c in cells(path) if c.get("outputs") or c.get("execution_count")]
    assert cells(path)[0]["source"][0].startswith("# ")


@pytest.mark.slow
@pytest.mark.timeout(300)  # 15 s of CPU; in turn with other tests it waits
def test_notebooks_run_and_show_what_they_make(monkeypatch, tmp_path):
    """One kernel for all; settings are tiny."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("skimage")
    monkeypatch.syspath_prepend(str(FOLDER.parents[1] / "tools" / "site"))
    monkeypatch.setenv("DUKD_NOTEBOOKS_QUICK", "1")
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[1] / "src"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    import notebooks  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    done = notebooks.run(NOTEBOOKS)
    sys.modules.pop("notebooks")

    assert list(done) == [path.name for path in NOTEBOOKS]
    outputs = {
        name: [o for cell in made["cells"] for o in cell.get("outputs", [])]
        for name, made in done.items()
    }
    shown = {
        name: {kind for o in some for kind in o.get("data", {})} for name, some in outputs.items()
    }
    assert "text/html" in shown["five-minutes.ipynb"]  # the table
    assert "image/png" in shown["five-minutes.ipynb"] & shown["your-own-loop.ipynb"]
    assert not [o for some in outputs.values() for o in some if o.get("name") == "stderr"]
