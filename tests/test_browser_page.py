"""The page that runs a student, and the server behind it."""

import http.client
import io
import json
import re
import threading
import time
from base64 import b64decode, b64encode

import numpy as np
import pytest
import torch
from PIL import Image

from browser import FOUND, browser
from dukd.deploy import page, serve
from dukd.deploy.image import upscale_image
from dukd.deploy.model import Model
from dukd.deploy.page import PLACE, PageError, write_page
from dukd.deploy.serve import Server
from dukd.images import Image as Picture
from dukd.networks import EDSRConfig, PlainConfig
from dukd.networks.upscaler import OnDevice


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return EDSRConfig(scale=2, width=4, blocks=1, value_range=1.0, skip="nearest").build().frozen()


@pytest.fixture
def engine(tmp_path):
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in (*page._WASM, *page._WEBGPU):
        (folder / name).write_bytes(f"{name} {{{{title}}}} </script>".encode())
    return folder


def test_the_page_carries_everything_and_fetches_nothing(network, engine, tmp_path):
    pytest.importorskip("onnxruntime")
    made = write_page(network, tmp_path / "page.html", engine=engine, title="<mine> {{data}}")
    text = made.path.read_text(encoding="utf-8")
    assert made.bytes == len(text.encode())
    assert made.verified is not None
    assert made.verified.largest < 1e-4
    assert "<title>&lt;mine&gt; {{data}}</title>" in text
    assert not re.findall(r"(?:src|href)=\"http|@import|url\(http", text)
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', text)[1])
    assert facts["scale"] == 2
    assert facts["radius"] == network.radius
    found = re.findall(r'octet-stream" id="(\w+)">([A-Za-z0-9+/=]+)</script>', text)
    assert [name for name, _ in found] == ["engine", "module", "wasm", "worker", "model"]
    assert "connect-src blob: data:" in text


def test_parameters_are_those_that_run(engine, tmp_path):
    """Branches that only trained are folded before anything is shipped, and not counted."""
    pytest.importorskip("onnxruntime")
    plain = PlainConfig(scale=2, width=4, blocks=1).build().frozen()
    deployed = plain.folded().parameter_count()
    assert deployed < plain.parameter_count()
    made = write_page(plain, tmp_path / "page.html", engine=engine)
    assert f"{deployed:,} parameters" in made.path.read_text(encoding="utf-8")
    assert f"{deployed:,} parameters" in repr(Model(plain))


def test_the_engine_is_found_in_its_package_and_in_its_folder_of_files(
    network, engine, tmp_path, monkeypatch
):
    pytest.importorskip("onnxruntime")
    assert write_page(network, tmp_path / "root.html", engine=engine.parent).path.is_file()
    monkeypatch.chdir("/")
    monkeypatch.setenv(PLACE, str(engine.parent))
    assert write_page(network, tmp_path / "named.html").path.is_file()


def test_a_missing_engine_is_named_with_what_to_do(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PLACE, raising=False)
    with pytest.raises(PageError, match=r"npm install onnxruntime-web@.*--engine or " + PLACE):
        write_page(network, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.fixture
def server(network):
    reports = []
    with Server(network, port=0, title="", report=reports.append) as made:
        made.reports = reports
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join(10)


def said(server, method, path, body=b"", **headers):
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(
        method, path, body, {k.replace("_", "-"): str(v) for k, v in headers.items()}
    )
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_the_server_enlarges_as_the_program_does(server, network):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    status, content = said(server, "POST", "/upscale", png(pixels))
    assert status == 200
    wanted, _ = upscale_image(network, Picture(pixels=pixels))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), wanted.pixels)
    assert server.reports == ["enlarged an image to 60 x 40"]


def test_the_page_is_served_and_nothing_else(server):
    status, content = said(server, "GET", "/")
    assert status == 200
    assert b'"served": true' in content
    assert said(server, "GET", "/etc/passwd")[0] == 404
    assert said(server, "POST", "/elsewhere", b"x")[0] == 404
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Host": ""}]
)
def test_other_hosts_and_pages_are_refused(server, headers):
    for method, path in (("GET", "/"), ("POST", "/upscale")):
        assert said(server, method, path, b"", **headers)[0] == 403


def test_bad_files_get_a_sentence_without_paths(server, monkeypatch):
    status, content = said(server, "POST", "/upscale", b"no image")
    assert status == 422
    assert b"/" not in content.replace(b"TIFF/", b"")
    monkeypatch.setattr(serve, "LARGEST", 10)
    assert said(server, "POST", "/upscale", b"x" * 11)[0] == 413
    assert said(server, "POST", "/upscale", b"", Content_Length="-1")[0] == 413


def test_more_than_can_wait_are_refused(server):
    for _ in range(serve.WAITING):
        assert server.places.acquire(blocking=False)
    assert said(server, "POST", "/upscale", png(np.zeros((4, 4, 3), np.uint8)))[0] == 503


TAKE = """(() => {
  const bytes = Uint8Array.from(atob("%s"), (c) => c.charCodeAt(0));
  const held = new DataTransfer();
  held.items.add(new File([bytes], "photo.png", { type: "image/png" }));
  const input = document.getElementById("file");
  input.files = held.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
})()"""
GIVE = """fetch(document.getElementById("save").href).then((r) => r.arrayBuffer()).then((buffer) =>
  btoa(Array.from(new Uint8Array(buffer), (b) => String.fromCharCode(b)).join("")))"""


@pytest.mark.xdist_group("browser")
@pytest.mark.skipif(FOUND is None, reason="the page is looked at in Chromium, which is not here")
def test_the_page_enlarges_as_dukd_upscale_does(network, tmp_path):
    """Two tiles wide, by npm's engine: at most one level from the network in torch."""
    pytest.importorskip("onnxruntime")
    try:
        made = write_page(network, tmp_path / "page.html")
    except PageError as error:
        pytest.skip(str(error))
    y, x = np.mgrid[:60, :230]
    waves = [127 + 120 * np.sin(x / a + y / b) for a, b in ((3, 9), (40, 5), (2, 2))]
    pixels = np.stack(waves, axis=-1).astype(np.uint8)
    expected, _ = upscale_image(OnDevice(network), Picture(pixels=pixels))

    with browser(tmp_path / "profile") as tab:
        tab.open(made.path)
        tab.run(TAKE % b64encode(png(pixels)).decode())
        for _ in range(400):
            if tab.run('document.getElementById("save").href'):
                break
            time.sleep(0.25)
        result = np.asarray(Image.open(io.BytesIO(b64decode(tab.run(GIVE)))).convert("RGB"))
        assert tab.errors == []

    assert result.shape == expected.pixels.shape
    assert np.abs(result.astype(int) - expected.pixels.astype(int)).max() <= 1
