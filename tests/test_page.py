"""The page as people use it, in a browser: one browser for all claims."""

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from browser import FOUND, Browser, browser
from dukd.runs.bars import Bar, bars
from dukd.runs.directory import Run
from dukd.runs.report import Section, report
from dukd.runs.signed import with_crc, with_digest, with_header

pytestmark = [
    pytest.mark.skipif(
        FOUND is None, reason="the page is looked at in Chromium, which is not here"
    ),
    pytest.mark.xdist_group("browser"),
]
WIDTHS = (390, 768, 1280)
every_width = pytest.mark.parametrize("width", WIDTHS)

SIZE = 120
PLACE = (70, 30)
"""Where a spot lies that only the ground truth has: x and y."""


def _image(kind: str) -> np.ndarray:
    pixels = np.full((SIZE, SIZE, 3), 90, np.uint8)
    pixels[:, SIZE // 2 :] = 160
    x, y = PLACE
    pixels[y : y + 8, x : x + 8] = {"bicubic": 160, "scratch": 180, "dukd": 220}.get(kind, 255)
    return pixels


def _run(folder: Path, method: str, psnr: float) -> Path:
    run = folder / f"{method}-{'a-name-that-is-long-' * 3}"
    run.mkdir(parents=True)
    text = f"student: {{type: edsr}}\nmethod: {{type: {method}}}\noptimization: {{steps: 90}}\n"
    (run / "experiment.yaml").write_text(with_header(text))
    facts = {"command": "dukd train " + "x" * 300, "teacher_sha256": "ab" * 32, "seed": 1}
    (run / "run.json").write_text(with_digest(facts))
    lines = [
        line
        for step in range(10, 91, 10)
        for line in (
            {"kind": "train", "step": step, "losses": {"reconstruction": 1 / step}},
            {"kind": "validation", "step": step, "sets": {"Set5": {"psnr_y": psnr - 1 / step}}},
        )
    ]
    (run / "log.jsonl").write_bytes(b"".join(map(with_crc, lines)))
    (run / "state").mkdir()
    Run(run).states.file(90).touch()
    values = dict.fromkeys(("ssim_y", "psnr_rgb", "ssim_rgb", "agreement"), 0.9) | {"images": 5}
    sets = ("Set5", "Set14", "Urban100", "Manga109")
    rows = [
        {"model": model, "label": model, "parameters": 10**6, "macs": 10**9}
        | {"sets": {name: {"psnr_y": value, **values} for name in sets}}
        for model, value in (("bicubic", 30.0), ("student", psnr), ("teacher", 34.0))
    ]
    evaluation = {"protocol": {"border": "2 px"}, "scale": 2, "rows": rows}
    (run / "evaluation.json").write_text(with_digest(evaluation))
    (run / "samples").mkdir()
    index = []
    for label in ("bicubic", method, "teacher", "ground truth"):
        Image.fromarray(_image(label)).save(run / "samples" / f"{label}.png")
        index.append({"label": label, "file": f"{label}.png", "psnr_y": 31.0})
    samples = [{"sample": name, "images": index} for name in ("first", "second")]
    (run / "samples" / "index.json").write_text(json.dumps(samples))
    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    runs = [_run(folder, "scratch", 32.0), _run(folder, "dukd", 33.0)]
    layers = [Bar("a" * 40, 0.1), Bar("b", -0.02)]
    more = Section("More", bars(layers, label="loss by layer", unit="dB"))
    return report(runs, folder / "index.html", sections=[more])


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def opened(tab: Browser, page: Path) -> Browser:
    tab.size(1280)
    tab.open(page)
    return tab


@every_width
def test_nothing_sticks_out_and_no_script_fails(tab: Browser, page: Path, width: int) -> None:
    tab.size(width)
    tab.open(page)

    assert tab.run("document.documentElement.classList.contains('scripted')")
    assert tab.run("document.documentElement.scrollWidth") == width
    assert tab.run("document.querySelector('.viewer').classList.contains('live')")
    assert tab.errors == []


@every_width
def test_a_table_that_is_wider_than_the_screen_says_so(
    tab: Browser, page: Path, width: int
) -> None:
    tab.size(width)
    tab.open(page)

    said = tab.run(
        "(() => { const box = document.querySelector('.results').parentNode;"
        "return [box.scrollWidth > box.clientWidth, box.classList.contains('more'), box.tabIndex,"
        "getComputedStyle(box.nextElementSibling, '::before').content]; })()"
    )
    assert said[0] == said[1] == (said[2] == 0) == ("Scroll" in said[3])
    assert said[0] or width == 1280


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_can_be_read(tab: Browser, page: Path, dark: bool) -> None:
    """WCAG's contrast of 4.5 for all text, whose background is the nearest one that is opaque."""
    tab.size(1280, dark=dark)
    tab.open(page)
    found = tab.run("""(() => {
      const seen = {};
      const parse = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
      for (const e of document.querySelectorAll('main *')) {
        const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!own || e.closest('.stage, script, option') || !e.getClientRects().length) continue;
        const style = getComputedStyle(e);
        let b = e;
        const clear = (x) => (parse(getComputedStyle(x).backgroundColor)[3] ?? 1) === 0;
        while (b.parentElement && clear(b)) b = b.parentElement;
        const color = e.namespaceURI.endsWith('svg') ? style.fill : style.color;
        seen[[color, getComputedStyle(b).backgroundColor]] ??= e.outerHTML.slice(0, 80);
      }
      return Object.entries(seen).map(([k, e]) => [k.split(/,(?=rgb)/).map(parse), e]);
    })()""")

    assert len(found) > 4
    for (ink, paper), element in found:
        light, dim = sorted((_luminance(ink), _luminance(paper)), reverse=True)
        assert (light + 0.05) / (dim + 0.05) >= 4.5, (element, ink, paper)


def _luminance(color: list[float]) -> float:
    def linear(value: float) -> float:
        share = value / 255
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    red, green, blue = map(linear, color[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_keyboard_reaches_everything_in_the_order_of_the_page(opened: Browser) -> None:
    opened.run("document.activeElement.blur(), scrollTo(0, 0)")
    tops: list[float] = []
    names: list[str] = []
    for _ in range(14):
        opened.press("Tab")
        top, name = opened.run(
            "(() => { const e = document.activeElement, r = e.getBoundingClientRect();"
            "return [r.top + scrollY, e.ariaLabel || e.className.baseVal || e.className"
            "|| e.type]; })()"
        )
        tops.append(top)
        names.append(name)

    wanted = ["checkbox", "link", "link", "link", "Image", "Left", "Right"]
    assert names[:7] == wanted
    assert names[7].startswith("Magnification")
    assert names[8].startswith("Place under the lens")
    assert names[9].startswith("Divider between bicubic and dukd")
    assert all(b > a - 700 for a, b in itertools.pairwise(tops))
    assert len(set(zip(tops, names, strict=True))) == 14  # no trap


def test_the_divider_moves_by_keyboard_and_by_mouse(opened: Browser) -> None:
    share = "parseFloat(document.querySelector('.handle').style.left)"
    clip = "document.querySelector('.over').style.clipPath"
    assert opened.run(share) == 50

    opened.run("document.querySelector('.divide').focus()")
    for _ in range(3):
        opened.press("ArrowRight")
    assert opened.run(share) == 53
    assert opened.run(clip) == "inset(0px 47% 0px 0px)"

    opened.run("document.querySelector('.stage').scrollIntoView({block: 'center'})")
    x, y, w, h = opened.run(
        "(() => { const r = document.querySelector('.stage').getBoundingClientRect();"
        "return [r.x, r.y, r.width, r.height]; })()"
    )
    opened.mouse("mousePressed", x + w / 2, y + h / 2, held=True)
    opened.mouse("mouseMoved", x + w / 4, y + h / 2, held=True)
    opened.mouse("mouseReleased", x + w / 4, y + h / 2)
    assert opened.run(share) == pytest.approx(25, abs=0.5)
    assert opened.errors == []


_GLASS = """[...document.querySelectorAll('.lens canvas')].map((c) =>
  [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data].slice(0, 3))"""


def test_the_lens_shows_one_place_in_every_output(opened: Browser) -> None:
    """The lens begins where outputs differ most, on the spot: 160, 180, 220 and twice 255."""
    names = opened.run("[...document.querySelectorAll('.lens figure')].map(f => f.textContent)")
    assert [name.split("3")[0] for name in names] == [
        "bicubic",
        "scratch",
        "dukd",
        "teacher",
        "ground truth",
    ]

    x, y, w, h = _stage(opened)
    middle = [(at + 4) / SIZE for at in PLACE]
    opened.mouse("mouseMoved", x + w * middle[0], y + h * middle[1])
    assert opened.run(_GLASS) == [[n] * 3 for n in (160, 180, 220, 255, 255)]

    opened.tap(x + w * 0.2, y + h * 0.8)
    assert opened.run(_GLASS) == [[90] * 3] * 5

    opened.run("document.querySelector('.frame').focus()")
    for _ in range(16):
        opened.press("ArrowRight")
    assert opened.run(_GLASS) == [[160] * 3] * 5


def _stage(tab: Browser) -> list[float]:
    tab.run("document.querySelector('.stage').scrollIntoView({block: 'center'})")
    box = tab.run("JSON.stringify(document.querySelector('.stage').getBoundingClientRect())")
    return [json.loads(box)[key] for key in ("x", "y", "width", "height")]


def test_errors_are_distances_from_the_truth(opened: Browser) -> None:
    """35 levels below white are 35 * 0.859 = 30 of luma, 240 when taken eight times."""
    x, y, w, h = _stage(opened)
    opened.mouse("mouseMoved", x + w * (PLACE[0] + 4) / SIZE, y + h * (PLACE[1] + 4) / SIZE)

    opened.run("document.querySelector('.switch input').click()")

    bicubic, scratch, dukd, teacher, truth = opened.run(_GLASS)
    error = 8 * 0.859 * 35
    expected = [255, 255, 2.5 * (error - 170)]
    assert all(math.isclose(a, b, abs_tol=2) for a, b in zip(dukd, expected, strict=True))
    assert bicubic == scratch == [255, 255, 255]
    assert teacher == [0, 0, 0]
    assert truth == [255, 255, 255]  # the truth stays as it is
    assert opened.run("document.querySelectorAll('.piece canvas').length") > 3


def test_charts_say_their_values_on_focus_and_touch(opened: Browser) -> None:
    said = "document.querySelector('.values').textContent"
    opened.run("document.querySelector('svg.chart').focus()")
    assert "dukd, step 90: 32.99" in opened.run(said)
    assert "scratch, step 90: 31.99" in opened.run(said)

    opened.press("ArrowLeft")
    assert "dukd, step 80: 32.99" in opened.run(said)

    opened.run("document.querySelector('svg.chart').scrollIntoView({block: 'center'})")
    x, y = opened.run(
        "(() => { const r = document.querySelector('.dot').getBoundingClientRect();"
        "return [r.x + 3, r.y]; })()"
    )
    opened.tap(x, y + 40)
    assert "step 10:" in opened.run(said)


def test_the_table_and_the_images_need_no_script(page: Path, tab: Browser, tmp_path: Path) -> None:
    text = page.read_text()
    (tmp_path / "plain.html").write_text(
        text.replace("script-src 'sha256-", "script-src 'sha256-x")
    )
    tab.size(768)
    tab.open(tmp_path / "plain.html")

    assert any("Content Security Policy" in error for error in tab.errors)
    tab.errors.clear()
    assert not tab.run("document.documentElement.classList.contains('scripted')")
    assert tab.run("[...document.images].every(i => i.offsetWidth > 50)")
    assert tab.run("document.querySelector('.results').rows.length") == 5
