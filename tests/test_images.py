"""Images keep what they are: bits, transparency, profile, orientation; and damaged files are
refused.
"""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from PIL import ImageCms, ImageOps, PngImagePlugin
from torch.testing import assert_close

from dukd.images import (
    EXTENSIONS,
    WRITTEN,
    Header,
    Image,
    ImageError,
    from_levels,
    from_tensor,
    header,
    read,
    read_rgb8,
    to_tensor,
    write,
)

RNG = np.random.default_rng(0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def levels(*shape: int, dtype: type[np.generic] = np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def saved(path: Path, image: PillowImage.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transparent", [False, True])
def test_eight_bits_come_back(
    tmp_path: Path, suffix: str, channels: int, transparent: bool
) -> None:
    image = Image(
        pixels=levels(5, 7, channels),
        alpha=levels(5, 7) if transparent else None,
        icc=SRGB,
        exif=exif_block(1),
    )
    path = tmp_path / f"a{suffix}"

    write(path, image, quality=100)
    back = read(path)

    expected = image.pixels
    profile = SRGB
    if suffix == ".webp" and channels == 1:  # WebP has no gray
        expected, profile = np.broadcast_to(expected, (5, 7, 3)), None
    assert np.array_equal(back.pixels, expected)
    assert (back.alpha is None) == (not transparent)
    assert image.alpha is None or np.array_equal(back.alpha, image.alpha)
    assert back.icc == profile


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transparent", [False, True])
@settings(max_examples=30)
@given(st.integers(1, 70), st.integers(1, 9), st.booleans())
def test_sixteen_bits_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    channels: int,
    transparent: bool,
    h: int,
    w: int,
    smooth: bool,
) -> None:
    pixels = levels(h, w, channels, dtype=np.uint16)
    if smooth:  # so that every filter is chosen
        pixels = np.cumsum(pixels % 300, axis=0, dtype=np.uint16)
    alpha = levels(h, w, dtype=np.uint16) if transparent else None
    path = tmp_path_factory.mktemp("a") / "a.png"

    write(path, Image(pixels=pixels, alpha=alpha, icc=SRGB))
    back = read(path)

    assert back.bits == 16
    assert np.array_equal(back.pixels, pixels)
    assert alpha is None or np.array_equal(back.alpha, alpha)
    assert back.icc == SRGB
    assert header(path).bits == 16


def exif_block(orientation: int) -> bytes:
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a camera"
    return exif.tobytes()


@pytest.mark.parametrize("first", [".png", ".webp", ".jpg"])
@pytest.mark.parametrize("second", [".png", ".webp", ".jpg", ".tif"])
def test_exif_goes_from_format_to_format(tmp_path: Path, first: str, second: str) -> None:
    """Blocks begin with ``Exif`` in JPEG only; other programs still find the camera."""
    write(tmp_path / f"a{first}", Image(pixels=levels(3, 4, 3), exif=exif_block(1)))

    write(tmp_path / f"b{second}", read(tmp_path / f"a{first}"))

    with PillowImage.open(tmp_path / f"b{second}") as image:
        assert image.getexif()[0x010F] == "a camera"


def test_read_rgb8_gives_what_pillow_gives(tmp_path: Path) -> None:
    pixels = levels(6, 4, 3)

    assert np.array_equal(
        read_rgb8(saved(tmp_path / "a.png", PillowImage.fromarray(pixels))), pixels
    )


def png(header_fields: tuple[int, ...], rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG put together by hand: width, height, depth, color, 0, 0, interlace; filtered rows;
    chunks before them.
    """
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", *header_fields)),
        *extra,
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )


def filtered(rows: np.ndarray, step: int, kind: int) -> bytes:
    """Rows of bytes under one of PNG's five filters, as the standard states them, byte by byte."""
    out = bytearray()
    above = [0] * len(rows[0])
    for row in rows.tolist():
        out.append(kind)
        for k, value in enumerate(row):
            a, b, c = (
                row[k - step] if k >= step else 0,
                above[k],
                above[k - step] if k >= step else 0,
            )
            p = a + b - c
            nearest = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            out.append((value - (0, a, b, (a + b) // 2, nearest)[kind]) % 256)
        above = row
    return bytes(out)


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize(("color", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_png_of_every_filter_and_color(
    tmp_path: Path, kind: int, color: int, channels: int
) -> None:
    planes = levels(4, 5, channels, dtype=np.uint16)
    rows = planes.astype(">u2").reshape(4, -1).view(np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(png((5, 4, 16, color, 0, 0, 0), filtered(rows, 2 * channels, kind)))

    back = read(path)

    visible = channels - (color in (4, 6))
    assert np.array_equal(back.pixels, planes[..., :visible])
    assert (back.alpha is None) == (visible == channels)
    assert back.alpha is None or np.array_equal(back.alpha, planes[..., -1])
    assert np.array_equal(read_rgb8(path)[..., 0], np.floor(planes[..., 0] / 257 + 0.5))


@pytest.mark.parametrize(("color", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_interlaced_sixteen_bit_png(tmp_path: Path, color: int, channels: int) -> None:
    """Adam7: seven small images of every 8th to every 2nd pixel, one after the other."""
    planes = levels(11, 13, channels, dtype=np.uint16)
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    data = b""
    for y, x, down, right in passes:
        part = planes[y::down, x::right]
        data += b"".join(b"\0" + row.astype(">u2").tobytes() for row in part)
    path = tmp_path / "a.png"
    path.write_bytes(png((13, 11, 16, color, 0, 0, 1), data))

    back = read(path)

    assert np.array_equal(back.pixels, planes[..., : 1 if channels < 3 else 3])


@pytest.mark.parametrize(("color", "channels"), [(0, 1), (2, 3)])
def test_one_color_of_a_sixteen_bit_png_may_be_transparent(
    tmp_path: Path, color: int, channels: int
) -> None:
    planes = levels(3, 4, channels, dtype=np.uint16)
    key = planes[1, 2].astype(">u2").tobytes()
    path = tmp_path / "a.png"
    data = b"".join(b"\0" + row.astype(">u2").tobytes() for row in planes)
    path.write_bytes(png((4, 3, 16, color, 0, 0, 0), data, (b"tRNS", key)))

    alpha = read(path).alpha

    expected = np.full((3, 4), 65535)
    expected[1, 2] = 0
    assert np.array_equal(alpha, expected)


def test_other_programs_read_our_sixteen_bits(tmp_path: Path) -> None:
    """Pillow keeps gray, and of color the high bytes."""
    pixels = levels(70, 9, 3, dtype=np.uint16)
    write(tmp_path / "gray.png", Image(pixels=pixels[..., :1]))
    write(
        tmp_path / "rgb.png",
        Image(pixels=pixels, exif=exif_block(1)),
        text={"Software": "größer"},
    )

    with PillowImage.open(tmp_path / "gray.png") as image:
        assert np.array_equal(np.asarray(image), pixels[..., 0])
    with PillowImage.open(tmp_path / "rgb.png") as image:
        assert np.array_equal(np.asarray(image), pixels >> 8)
        assert image.getexif()[0x010F] == "a camera"
        assert image.info["Software"] == "größer"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jpg"])
def test_images_stand_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    """Pillow's own transposition is the reference; the tag is reset, so that nobody turns the
    image twice.
    """
    image = PillowImage.fromarray(levels(8, 16, 3)).resize((32, 16))
    exif = PillowImage.Exif()
    exif.load(exif_block(orientation))
    path = saved(
        tmp_path / f"a{suffix}",
        image,
        exif=exif,
        **({"lossless": True} if suffix == ".webp" else {}),
    )
    with PillowImage.open(path) as file:
        expected = np.asarray(ImageOps.exif_transpose(file))

    back = read(path)

    assert np.array_equal(back.pixels, expected)
    h, w = expected.shape[:2]
    assert header(path) == Header(w, h, "RGB", 8)
    if suffix != ".tif":  # its tags describe the file rather than the photograph
        assert back.exif is not None
        kept = PillowImage.Exif()
        kept.load(back.exif)
        assert kept[0x0112] == 1
        assert kept[0x010F] == "a camera"


def test_orientation_behind_the_pixels_counts_too(tmp_path: Path) -> None:
    """PNG allows eXIf after IDAT; header and read agree without the header decoding anything."""
    rows = filtered(levels(2, 9), 3, 0)
    content = exif_block(6).removeprefix(b"Exif\0\0")
    chunk = (
        struct.pack(">I", len(content))
        + b"eXIf"
        + content
        + struct.pack(">I", zlib.crc32(b"eXIf" + content))
    )
    data = png((3, 2, 8, 2, 0, 0, 0), rows)
    path = tmp_path / "a.png"
    path.write_bytes(data[:-12] + chunk + data[-12:])

    assert read(path).pixels.shape == (3, 2, 3)
    assert header(path) == Header(2, 3, "RGB", 8)


def test_palettes_are_expanded(tmp_path: Path) -> None:
    """The indices themselves mean nothing; a transparent entry becomes alpha."""
    image = PillowImage.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    colors = np.array([[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]])

    plain = read(saved(tmp_path / "a.png", image))
    keyed = read(saved(tmp_path / "b.png", image, transparency=1))
    gif = read(saved(tmp_path / "a.gif", image))

    assert np.array_equal(plain.pixels, colors)
    assert np.array_equal(gif.pixels, colors)
    assert plain.alpha is None
    assert plain.mode == "P"
    assert np.array_equal(keyed.pixels, colors)
    assert np.array_equal(keyed.alpha, [[255, 0], [255, 0]])


def test_one_bit_and_keyed_gray(tmp_path: Path) -> None:
    bits = PillowImage.fromarray(np.array([[True, False, True]]))
    gray = PillowImage.fromarray(np.array([[7, 8, 7]], np.uint8))

    assert np.array_equal(read(saved(tmp_path / "a.png", bits)).pixels[..., 0], [[255, 0, 255]])
    keyed = read(saved(tmp_path / "b.png", gray, transparency=8))
    assert np.array_equal(keyed.pixels[..., 0], [[7, 8, 7]])
    assert np.array_equal(keyed.alpha, [[255, 0, 255]])


def test_sixteen_bit_gray_of_tiff_and_pgm_is_kept(tmp_path: Path) -> None:
    pixels = levels(3, 4, dtype=np.uint16)
    (tmp_path / "a.pgm").write_bytes(b"P5 # a note\n4 3\n65535\n" + pixels.astype(">u2").tobytes())

    assert np.array_equal(
        read(saved(tmp_path / "a.tif", PillowImage.fromarray(pixels))).pixels[..., 0], pixels
    )
    assert np.array_equal(read(tmp_path / "a.pgm").pixels[..., 0], pixels)
    assert header(tmp_path / "a.tif").bits == header(tmp_path / "a.pgm").bits == 16


def test_cmyk_without_a_profile_is_plain_inks_for_every_reader(tmp_path: Path) -> None:
    """R = (1 - C)(1 - K): one rule, which a note says, also the header's."""
    path = saved(tmp_path / "a.tif", PillowImage.new("CMYK", (4, 4), (0, 255, 51, 51)))

    image = read(path)

    assert image.pixels[0, 0].tolist() == [204, 0, 163]
    assert "plain inks" in image.notes[0]
    assert read_rgb8(path)[0, 0].tolist() == [204, 0, 163]
    assert header(path).note == image.notes[0]
    assert not header(path).problem
    with pytest.raises(ImageError, match=r"b\.jpg: is CMYK, but its color profile does not fit"):
        read(saved(tmp_path / "b.jpg", PillowImage.new("CMYK", (4, 4)), icc_profile=SRGB))


def press() -> bytes:
    """An ICC profile of a printing press: paper is white, every ink alone or together is black."""
    colors = bytes([255, 128, 128] + [0, 128, 128] * 15)  # Lab at the corners of C, M, Y, K
    identity = [1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 16]
    curve = bytes(range(256))
    table = (
        b"mft1\0\0\0\0"
        + bytes([4, 3, 2, 0])
        + struct.pack(">9i", *identity)
        + curve * 4
        + colors
        + curve * 3
    )
    start = struct.pack(
        ">I4sI4s4s4s", 132 + 12 + len(table), b"\0\0\0\0", 0x02400000, b"prtr", b"CMYK", b"Lab "
    )
    start = (
        start.ljust(36, b"\0") + b"acsp" + bytes(28) + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    )
    return start.ljust(128, b"\0") + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


def test_cmyk_becomes_srgb_by_its_profile(tmp_path: Path) -> None:
    image = PillowImage.fromarray(np.array([[[0, 0, 0, 0], [0, 0, 0, 255]]], np.uint8), "CMYK")

    image = read(saved(tmp_path / "a.tif", image, icc_profile=press()))

    assert np.array_equal(image.pixels, [[[255] * 3, [0] * 3]])
    assert image.icc is None
    assert image.mode == "CMYK"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.png", b"", "is empty: copy or download it again"),
        ("text.jpg", b"this is no image at all, but text", "is none of PNG"),
        ("deep.ppm", b"P6 1 1 65535\n12345", "2 of 3 levels"),
        ("old.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n", "is none of PNG"),
    ],
)
def test_files_that_are_not_images_are_refused_by_name(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ImageError, match=f"{name}: .*{reason}"):
        read(tmp_path / name)


def test_other_odd_images_are_refused(tmp_path: Path) -> None:
    frames = [PillowImage.new("L", (3, 3), k) for k in (0, 255)]
    floats = PillowImage.fromarray(np.ones((2, 2), np.float32))

    with pytest.raises(ImageError, match=r"a\.gif: holds 2 images"):
        read(saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:]))
    with pytest.raises(ImageError, match=r"a\.tif: holds 2 images"):
        read(saved(tmp_path / "a.tif", frames[0], save_all=True, append_images=frames[1:]))
    with pytest.raises(ImageError, match=r"b\.tif: is a TIFF of 32 bits in F"):
        read(saved(tmp_path / "b.tif", floats))
    with pytest.raises(ImageError, match=r"no\.png: there is no such file"):
        read(tmp_path / "no.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize("look", [read, header, read_rgb8])
def test_bombs_are_refused_by_their_header(tmp_path: Path, look: Callable[..., object]) -> None:
    """50 000 x 50 000 pixels in 70 bytes: nothing is decoded; a caller may set another limit."""
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png((50_000, 50_000, 8, 2, 0, 0, 0), b"\0" * 9))
    small = saved(tmp_path / "a.png", PillowImage.new("L", (10, 10)))

    with pytest.raises(
        ImageError, match=r"bomb\.png: 50000 x 50000 pixels are more than 100 megapixels"
    ):
        look(bomb)
    with pytest.raises(ImageError, match=r"10 x 10 pixels are more than 9\.9e-05 megapixels"):
        look(small, max_pixels=99)
    look(small, max_pixels=100)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".gif", ".ppm"])
def test_a_cut_file_is_never_filled_up(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a{suffix}", PillowImage.fromarray(levels(24, 24, 3)))
    whole = path.read_bytes()
    for cut in range(0, len(whole) * 9 // 10, max(1, len(whole) // 40)):
        path.write_bytes(whole[:cut])
        with pytest.raises(ImageError):
            read(path)


def seeds() -> list[bytes]:
    """One small file of every kind that is read."""
    rgb, gray = PillowImage.fromarray(levels(9, 11, 3)), PillowImage.fromarray(levels(9, 11))
    rgba, deep = (
        PillowImage.fromarray(levels(9, 11, 4)),
        PillowImage.fromarray(levels(9, 11, dtype=np.uint16)),
    )
    wanted: list[tuple[PillowImage.Image, str, dict[str, object]]] = [
        (rgb, "PNG", {"icc_profile": SRGB}),
        (rgba, "PNG", {"exif": exif_block(6)}),
        (rgb.quantize(8), "PNG", {"transparency": 3}),
        (gray.convert("1"), "PNG", {}),
        (deep, "PNG", {}),
        (rgb, "JPEG", {"exif": exif_block(8)}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "JPEG", {"progressive": True}),
        (rgb, "WEBP", {}),
        (rgba, "WEBP", {"lossless": True}),
        (rgb, "BMP", {}),
        (rgb, "TIFF", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}),
        (deep, "TIFF", {"compression": "tiff_deflate"}),
        (gray, "GIF", {}),
        (rgb, "PPM", {}),
    ]
    files: list[bytes] = []
    for image, kind, options in wanted:
        with io.BytesIO() as file:
            image.save(file, kind, **options)
            files.append(file.getvalue())
    for color, channels in ((2, 3), (6, 4)):
        rows = levels(9, 11 * channels * 2)
        files.append(
            png(
                (11, 9, 16, color, 0, 0, 0),
                filtered(rows, 2 * channels, 4),
                (b"eXIf", exif_block(3)[6:]),
            )
        )
    return files


def mutant(rng: np.random.Generator, files: list[bytes]) -> bytes:
    data = bytearray(files[rng.integers(len(files))])
    for _ in range(rng.integers(1, 9)):
        at = int(rng.integers(len(data) + 1))
        match rng.integers(6):
            case 0:
                data[at : at + 1] = bytes([rng.integers(256)])
            case 1 if at < len(data):
                data[at] ^= 1 << int(rng.integers(8))
            case 2:
                del data[at : at + int(rng.integers(1, 9))]
            case 3:
                data[at:at] = data[: int(rng.integers(1, 9))]
            case 4:
                data[at : at + 4] = struct.pack(
                    ">I", rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
                )
            case _:
                other = files[rng.integers(len(files))]
                data[at:] = other[int(rng.integers(len(other))) :] if rng.integers(2) else b""
    return bytes(data)


@pytest.mark.filterwarnings(
    "ignore"
)  # Pillow warns of much; whoever reads the file gets an image or an ImageError
def test_only_image_errors_leave_a_damaged_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    files = seeds()
    path = tmp_path / "a"
    read_well = 0
    for data in files:
        path.write_bytes(data)
        read_well += (
            data[:3] != b"\xff\xd8\xff" or b"Adobe" not in data
        )  # the CMYK one has no profile
        try:
            read(path)
        except ImageError as error:
            assert "CMYK" in str(error)  # noqa: PT017  the one seed that is refused
    assert read_well == len(files) - 1
    for _ in range(800):
        path.write_bytes(mutant(rng, files))
        for look in (header, read):
            try:
                look(path, max_pixels=10**6)
            except ImageError as error:
                assert str(error).startswith(f"{path}: ")  # noqa: PT017  either outcome is right


@pytest.mark.parametrize(
    ("name", "image", "reason"),
    [
        (
            "a.jpg",
            Image(pixels=levels(2, 2, 3), alpha=levels(2, 2)),
            "JPEG does not hold transparency; write PNG",
        ),
        ("a.tif", Image(pixels=levels(2, 2, 3, dtype=np.uint16)), "TIFF is written with 8 bits"),
        ("a.gif", Image(pixels=levels(2, 2, 3)), r"not as '\.gif'"),
        ("a", Image(pixels=levels(2, 2, 3)), "not as 'no suffix'"),
        (
            "a.webp",
            Image(pixels=np.zeros((1, 16384, 1), np.uint8)),
            r"a\.webp: WEBP does not hold 16384 x 1 pixels",
        ),
    ],
)
def test_nothing_is_lost_in_writing_without_a_word(
    tmp_path: Path, name: str, image: Image, reason: str
) -> None:
    with pytest.raises(ImageError, match=reason):
        write(tmp_path / name, image)

    assert os.listdir(tmp_path) == []  # noqa: PTH208  nor does a torn file stay behind


def test_quality_changes_jpeg_and_notes_reach_png(tmp_path: Path) -> None:
    image = Image(pixels=levels(64, 64, 3), icc=SRGB, exif=exif_block(1))
    for quality in (50, 95):
        write(tmp_path / f"{quality}.jpg", image, quality=quality)
    write(tmp_path / "a.png", image, text={"Software": "größer"})

    assert (tmp_path / "50.jpg").stat().st_size < (tmp_path / "95.jpg").stat().st_size
    back = read(tmp_path / "95.jpg")
    assert (back.icc, back.exif) == (SRGB, exif_block(1))
    with PillowImage.open(tmp_path / "a.png") as file:
        assert isinstance(file, PngImagePlugin.PngImageFile)
        assert file.text["Software"] == "größer"
    with pytest.raises(ImageError, match="quality lies between 1 and 100, but got 0"):
        write(tmp_path / "b.jpg", image, quality=0)


@pytest.mark.parametrize(
    ("pixels", "alpha"),
    [
        (np.zeros((2, 2), np.uint8), None),
        (np.zeros((2, 2, 4), np.uint8), None),
        (np.zeros((2, 2, 3), np.float32), None),
        (np.zeros((0, 2, 3), np.uint8), None),
        (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 3), np.uint8)),
        (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint16)),
    ],
)
def test_impossible_images_are_refused(pixels: np.ndarray, alpha: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match=r"but got|but pixels"):
        Image(pixels=pixels, alpha=alpha)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tensors_hold_every_level(dtype: type[np.generic]) -> None:
    pixels = np.linspace(0, np.iinfo(dtype).max, 3 * 4096).astype(dtype).reshape(64, 64, 3)

    x = to_tensor(pixels)

    assert x.shape == (1, 3, 64, 64)
    assert (x.min(), x.max()) == (0, 1)
    assert np.array_equal(from_tensor(x, bits=8 * pixels.itemsize), pixels)


def test_tensors_repeat_gray_and_clamp_what_comes_back() -> None:
    assert_close(to_tensor(np.array([[[51]]], np.uint8)), torch.full((1, 3, 1, 1), 0.2))
    assert from_tensor(torch.tensor([-1.0, 0.5, 2.0]).reshape(1, 3, 1, 1)).tolist() == [
        [[0, 128, 255]]
    ]
    assert_close(to_tensor(np.array([[[51]]], np.uint8), channels=1), torch.full((1, 1, 1, 1), 0.2))
    assert_close(from_levels(torch.tensor([[[[0, 51]]]]).byte()), torch.tensor([[[[0, 0.2]]]]))
    with pytest.raises(ValueError, match=r"pixels are \(h, w, 1 or 3\), but got \(1, 1, 2\)"):
        to_tensor(np.zeros((1, 1, 2), np.uint8))
    with pytest.raises(ValueError, match=r"\(2, 3, 1, 1\) and 8"):
        from_tensor(torch.zeros(2, 3, 1, 1))


def test_every_suffix_that_is_written_is_read(tmp_path: Path) -> None:
    for suffix in WRITTEN:
        write(tmp_path / f"a{suffix}", Image(pixels=levels(3, 4, 3)))
        assert read(tmp_path / f"a{suffix}").pixels.shape == (3, 4, 3)
        assert suffix in EXTENSIONS


def test_letters_that_look_like_exif_are_not_taken_for_it(tmp_path: Path) -> None:
    """Pixels may hold the four letters by chance, near the end of the file, where a late eXIf is
    looked for.
    """
    raw = png(
        (2, 1, 8, 2, 0, 0, 0),
        bytes(7),
        (b"tEXt", b"k\0" + struct.pack(">I", 8) + b"eXIf" + exif_block(6)[6:]),
    )
    (tmp_path / "a.png").write_bytes(raw)

    assert header(tmp_path / "a.png") == Header(2, 1, "RGB", 8)
