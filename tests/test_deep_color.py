"""Color of 16 bits comes from TIFF and PPM as from PNG; what is not read is named."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import ExifTags
from PIL import Image as PillowImage

import dukd
from dukd import images
from dukd.images import ImageError, header, read, write
from dukd.images.jxl import size
from dukd.networks import EDSRConfig
from dukd.networks.files import weights

RNG = np.random.default_rng(2)
LEVELS = RNG.integers(0, 65536, (48, 40, 4), dtype=np.uint16)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", ["strips", "tiles", "deflated", "predicted"])
def test_tiff_of_sixteen_bits_in_color_comes_whole(tmp_path: Path, order: str, layout: str) -> None:
    options: dict[str, object] = {
        "strips": {"rowsperstrip": 7},
        "tiles": {"tile": (16, 16)},
        "deflated": {"compression": "zlib"},
        "predicted": {"compression": "zlib", "predictor": True},
    }[layout]
    path = tmp_path / "a.tif"
    try:
        tifffile.imwrite(path, LEVELS[..., :3], photometric="rgb", byteorder=order, **options)
    except (ImportError, ValueError, KeyError) as error:
        pytest.skip(f"tifffile alone cannot write it: {error}")

    assert np.array_equal(read(path).pixels, LEVELS[..., :3])
    assert header(path) == images.Header(40, 48, "RGB", 16)


def test_alpha_and_pages_of_sixteen_bits_come_whole(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", LEVELS, photometric="rgb", extrasamples=["unassalpha"])
    pages = np.stack([LEVELS[..., :3], 65535 - LEVELS[..., :3]])
    tifffile.imwrite(tmp_path / "p.tif", pages, photometric="rgb")

    image = read(tmp_path / "a.tif")

    assert np.array_equal(image.pixels, LEVELS[..., :3])
    assert image.alpha is not None
    assert np.array_equal(image.alpha, LEVELS[..., 3])
    both = [frame.image.pixels for frame in images.frames(tmp_path / "p.tif")]
    assert np.array_equal(np.stack(both), pages)


@pytest.mark.parametrize("turn", [6, 8])
@pytest.mark.parametrize("channels", [1, 4])
def test_a_plain_tiff_is_turned_whole(tmp_path: Path, turn: int, channels: int) -> None:
    """Pillow maps such a file by its turned size, and gives scrambled pixels."""
    levels = (LEVELS[:9, :11, :channels] >> 8).astype(np.uint8)
    exif = PillowImage.Exif()
    exif[0x0112] = turn
    PillowImage.fromarray(levels.squeeze()).save(tmp_path / "a.tif", exif=exif)

    image = read(tmp_path / "a.tif")

    expected = np.rot90(levels, -1 if turn == 6 else 1)
    assert np.array_equal(image.pixels, expected[..., :3])
    assert image.alpha is None or np.array_equal(image.alpha, expected[..., 3])


def test_arrangements_that_are_not_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    cases: list[tuple[dict[str, object], np.ndarray, str]] = [
        (
            {"planarconfig": "separate", "extrasamples": ["assocalpha"]},
            LEVELS.transpose(2, 0, 1),
            "multiplied by alpha",
        ),
        ({"extrasamples": ["assocalpha"]}, LEVELS, "multiplied by alpha"),
        ({}, LEVELS[..., :3].astype(np.float32), "floating-point levels"),
    ]
    for options, levels, reason in cases:
        tifffile.imwrite(path, levels, photometric="rgb", **options)
        assert header(path).problem if reason != "floating-point levels" else True
        with pytest.raises(ImageError, match=reason):
            read(path)
    tags = [(256, 4, 8), (257, 4, 1), (258, 3, 14), (259, 3, 1), (262, 3, 1), (273, 4, 122)]
    tags += [(277, 3, 1), (278, 4, 1), (279, 4, 14)]
    packed = b"".join(struct.pack("<HHII", tag, form, 1, value) for tag, form, value in tags)
    path.write_bytes(b"II*\0\x08\0\0\0\x09\0" + packed + bytes(4) + bytes(14))
    with pytest.raises(ImageError, match="TIFF of 14 bits a level"):
        read(path)


@pytest.mark.parametrize("layout", ["strips", "tiles", "deflated", "big"])
@pytest.mark.parametrize(("bits", "channels"), [(16, 3), (16, 4), (8, 2), (8, 3), (8, 4)])
def test_channels_in_planes_of_their_own_come_whole(
    tmp_path: Path, bits: int, channels: int, layout: str
) -> None:
    """Pillow gives the low byte of deflated planes of 16 bits for the whole, without a word."""
    path = tmp_path / "a.tif"
    levels = LEVELS[..., :channels] if bits == 16 else LEVELS[..., :channels].astype(np.uint8)
    options: dict[str, object] = {
        "strips": {"rowsperstrip": 7},
        "tiles": {"tile": (16, 16)},
        "deflated": {"compression": "zlib", "tile": (32, 16)},
        "big": {"bigtiff": True, "compression": "zlib", "predictor": True, "rowsperstrip": 5},
    }[layout]
    tifffile.imwrite(
        path,
        np.ascontiguousarray(levels.transpose(2, 0, 1)),
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="separate",
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        **options,
    )

    image = read(path)

    colors = 1 if channels == 2 else 3
    assert np.array_equal(image.pixels, levels[..., :colors])
    assert header(path).bits == image.bits == bits
    assert (image.alpha is None) == (channels == 3) == (not header(path).alpha)
    assert image.alpha is None or np.array_equal(image.alpha, levels[..., -1])


@pytest.mark.parametrize("white", [0, 1])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
def test_one_channel_in_a_plane_of_its_own_comes_whole(
    tmp_path: Path, bits: int, order: str, white: int
) -> None:
    """As GDAL writes one band: of "L;I" (0 is white) Pillow takes the "L"."""
    path = tmp_path / "a.tif"
    levels = LEVELS[..., 0] if bits == 16 else LEVELS[..., 0].astype(np.uint8)
    tifffile.imwrite(
        path, levels, photometric="miniswhite" if white == 0 else "minisblack", byteorder=order
    )
    content, software = path.read_bytes(), struct.pack(f"{order}HHI", 305, 2, 12)
    assert content.count(software) == 1
    planar = struct.pack(f"{order}HHIHH", 284, 3, 1, 2, 0)
    place = content.index(software)
    path.write_bytes(content[:place] + planar + content[place + 12 :])

    if (bits, order, white) == (16, ">", 0):
        with pytest.raises(ImageError, match="16 bits a level in this arrangement"):
            read(path)
        return
    expected = levels if white else np.iinfo(levels.dtype).max - levels
    assert np.array_equal(read(path).pixels[..., 0], expected)


def test_planes_are_turned_follow_each_other_and_are_divided_by_alpha(tmp_path: Path) -> None:
    apart, together = tmp_path / "apart.tif", tmp_path / "together.tif"
    planes = np.ascontiguousarray(LEVELS.transpose(2, 0, 1))
    turned = {"photometric": "rgb", "extratags": [(274, 3, 1, 6, True)]}
    tifffile.imwrite(apart, planes[:3], planarconfig="separate", **turned)
    assert np.array_equal(read(apart).pixels, np.rot90(LEVELS[..., :3], -1))

    pages = np.stack([planes[:3], 65535 - planes[:3]])
    tifffile.imwrite(apart, pages, photometric="rgb", planarconfig="separate")
    both = [frame.image.pixels for frame in images.frames(apart)]
    assert np.array_equal(np.stack(both), pages.transpose(0, 2, 3, 1))

    color = {"photometric": "rgb", "extrasamples": ["assocalpha"]}
    tifffile.imwrite(apart, planes.astype(np.uint8), planarconfig="separate", **color)
    tifffile.imwrite(together, LEVELS.astype(np.uint8), **color)
    assert np.array_equal(read(apart).pixels, read(together).pixels)


def test_what_pillow_takes_for_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, LEVELS[..., 0], bigtiff=True, byteorder=">")
    with pytest.raises(ImageError, match="big-endian BigTIFF"):
        read(path)
    tifffile.imwrite(path, LEVELS[..., :2], photometric="minisblack", extrasamples=["unassalpha"])
    with pytest.raises(ImageError, match="16 bits a level in this arrangement"):
        read(path)


def test_planes_that_are_damaged_or_unsaid_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    planes = np.ascontiguousarray(LEVELS.transpose(2, 0, 1))
    tifffile.imwrite(path, planes[:3], photometric="rgb", planarconfig="separate", rowsperstrip=48)
    content = path.read_bytes()
    for tag in (273, 279):  # one strip is forgotten
        content = content.replace(struct.pack("<HHI", tag, 4, 3), struct.pack("<HHI", tag, 4, 2))
    path.write_bytes(content)
    with pytest.raises(ImageError, match="3 planes in 2 strips or tiles"):
        read(path)

    tifffile.imwrite(
        path,
        planes.astype(np.uint8),
        photometric="rgb",
        planarconfig="separate",
        extrasamples=["unspecified"],
    )
    with pytest.raises(ImageError, match="planes of unsaid meaning"):
        read(path)


def test_ppm_of_many_levels_comes_whole(tmp_path: Path) -> None:
    """By the netpbm manual: two bytes a level, the high one first, or words; white is said."""
    path, small = tmp_path / "a.ppm", LEVELS[:2, :3, :3] % 1001
    path.write_bytes(b"P6 # a note\n3 2\n1000\n" + small.astype(">u2").tobytes())
    expected = np.round(small.astype(float) * 65535 / 1000)
    assert np.array_equal(read(path).pixels, expected)

    words = " ".join(str(level) for level in small.ravel()).encode()
    path.write_bytes(b"P3\n3 2\n1000\n# a note\n" + words)
    assert np.array_equal(read(path).pixels, expected)
    assert header(path).bits == 16


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"P6 1 1 1000\n\x03\xe9\0\0\0\0", "above 1000"),
        (b"P3 1 1 1000\n1 2", "2 of 3 levels"),
        (b"P3 1 1 1000\n1 2 -3", "other than 0 to 65535"),
        (b"P6 1 1 0\n123", "how bright white is"),
        (b"P6 1 1\n", "how bright white is"),
        (b"P5 1 1 255\n\x00P5 1 1 255\n\x00", "several images"),
    ],
)
def test_damaged_ppm_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.ppm").write_bytes(content)

    with pytest.raises(ImageError, match=reason):
        read(tmp_path / "a.ppm")


def test_the_size_of_a_jpeg_xl_is_known_before_it_is_decoded(tmp_path: Path) -> None:
    """Sides from 1 to 9000 in eighths, in ratios, bare and in a container; then the limit."""
    pytest.importorskip("pillow_jxl")
    exif = PillowImage.Exif()
    exif[0x010F] = "a camera"
    for w, h in ((1, 1), (256, 256), (257, 256), (300, 200), (192, 108), (1, 9000), (9000, 2)):
        for options in ({}, {"exif": exif.tobytes(), "use_container": True}):
            with io.BytesIO() as file:
                PillowImage.new("RGB", (w, h)).save(file, "JXL", **options)
                assert size(file) == (w, h)
                (tmp_path / "a.jxl").write_bytes(file.getvalue())
    with pytest.raises(ImageError, match="9000 x 2 pixels are more than"):
        read(tmp_path / "a.jxl", max_pixels=17_999)
    assert size(io.BytesIO(b"\xff\x0a")) is not None  # no error, whatever follows
    assert size(io.BytesIO(b"\0\0\0\x0cJXL ")) is None


def test_exif_too_long_for_jpeg_is_shortened_and_that_is_said(tmp_path: Path) -> None:
    exif = PillowImage.Exif()
    exif[0x010E], exif[0x010F] = "x" * 70_000, "a camera"
    exif.get_ifd(ExifTags.IFD.Exif)[0x9003] = "2020:01:01 00:00:00"
    image = images.Image(pixels=np.zeros((8, 8, 3), np.uint8), exif=exif.tobytes())

    notes = write(tmp_path / "a.jpg", image)

    assert notes == ("JPEG holds 64 KB of EXIF: left out ImageDescription",)
    with PillowImage.open(tmp_path / "a.jpg") as file:
        kept = file.getexif()
        assert kept[0x010F] == "a camera"
        assert kept.get_ifd(ExifTags.IFD.Exif)[0x9003] == "2020:01:01 00:00:00"


def test_what_a_format_cannot_hold_is_said(tmp_path: Path) -> None:
    gray = images.Image(pixels=np.zeros((8, 8, 1), np.uint8), icc=b"profile", dpi=(300.0, 300.0))
    exif = PillowImage.Exif()
    exif[0x010F] = "a camera"
    photo = images.Image(pixels=np.zeros((8, 8, 3), np.uint8), exif=exif.tobytes(), icc=b"profile")

    assert write(tmp_path / "g.webp", gray) == ("WEBP holds no profile of gray: left out",)
    assert write(tmp_path / "g.ppm", gray)[1:] == ("PPM holds no resolution: left out",)
    assert write(tmp_path / "p.bmp", photo) == (
        "BMP holds no EXIF: left out",
        "BMP holds no color profile: left out",
    )
    assert write(tmp_path / "p.png", photo) == ()
    with PillowImage.open(tmp_path / "g.webp") as file:  # which has no other place for it
        assert file.getexif()[0x011A] == 300


def test_linear_colors_stay_png_whatever_was_wanted(tmp_path: Path) -> None:
    """Known from the header, so that no work is done in vain."""
    linear = images.Image(
        pixels=np.zeros((8, 8, 3), np.uint8), chunks=((b"gAMA", struct.pack(">I", 100_000)),)
    )
    write(tmp_path / "a.png", linear)
    path = tmp_path / "n.safetensors"
    weights.write(path, EDSRConfig(scale=2, width=4, blocks=1).build())

    result = dukd.upscale(
        dukd.load(path), [tmp_path / "a.png"], tmp_path / "out", dukd.UpscaleOptions(format="jpg")
    )

    (done,) = result.done
    assert done.target.name == "a_x2.png"
    assert done.note is not None
    assert done.note.startswith("as PNG, since jpg cannot say that it is gamma 1")
