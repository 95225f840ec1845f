"""What a file means survives reading and writing, or the file is refused; time and memory too."""

import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage
from PIL import ImageSequence

from dukd import images
from dukd.images import (
    EXTENSIONS,
    WRITTEN,
    Image,
    ImageError,
    can_hold,
    fits,
    frames,
    header,
    list_images,
    read,
    read_rgb8,
    write,
    write_frames,
)

RNG = np.random.default_rng(1)


def levels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def smooth(w: int = 40, h: int = 24) -> PillowImage.Image:
    return PillowImage.fromarray(levels(h, w, 3)).resize((w, h))


def chunk(name: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def gray_png(bits: int, rows: bytes, width: int, *chunks: bytes) -> bytes:
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" + rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + start + b"".join(chunks) + body


def with_chunks(path: Path, *chunks: bytes) -> Path:
    smooth().save(path, "PNG")
    data = path.read_bytes()
    path.write_bytes(data[:33] + b"".join(chunks) + data[33:])
    return path


def gray_tiff(bits: int, photometric: int, data: bytes, w: int, h: int, packed: int = 1) -> bytes:
    """Gray TIFF of one strip, little-endian; ``packed`` 8 means deflated."""
    data = zlib.compress(data) if packed == 8 else data
    tags = [(256, 4, w), (257, 4, h), (258, 3, bits), (259, 3, packed), (262, 3, photometric)]
    tags += [(273, 4, 8 + 2 + 12 * 9 + 4), (277, 3, 1), (278, 4, h), (279, 4, len(data))]
    out = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, form, value in tags:
        out += struct.pack("<HHI", tag, form, 1)
        out += struct.pack("<HH", value, 0) if form == 3 else struct.pack("<I", value)
    return out + bytes(4) + data


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("packed", [1, 8])
def test_gray_tiff_shows_what_it_says(
    tmp_path: Path, photometric: int, bits: int, packed: int
) -> None:
    """Photometric 0 means that 0 is white; levels of fewer bits are spread over 8."""
    full = 2**bits - 1
    shown = np.linspace(0, full, 64).round().astype(int).repeat(2).reshape(2, 64)
    stored = full - shown if photometric == 0 else shown
    if bits == 16:
        data = stored.astype("<u2").tobytes()
    else:
        planes = (stored[..., None] >> np.arange(bits)[::-1]) & 1
        data = np.packbits(planes.reshape(2, -1), axis=1).tobytes()
    (tmp_path / "g.tif").write_bytes(gray_tiff(bits, photometric, data, 64, 2, packed))

    pixels = read(tmp_path / "g.tif").pixels[..., 0]

    assert np.array_equal(pixels, shown * (65535 if bits == 16 else 255) // full)


@pytest.mark.parametrize("packed", [1, 8])
def test_twelve_bits_are_spread_over_sixteen(tmp_path: Path, packed: int) -> None:
    ramp = np.tile(np.linspace(0, 4095, 64).round().astype(np.uint32), (4, 1))
    a, b = ramp[:, 0::2], ramp[:, 1::2]
    data = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], -1).astype(np.uint8).tobytes()
    (tmp_path / "g.tif").write_bytes(gray_tiff(12, 1, data, 64, 4, packed))

    assert np.array_equal(
        read(tmp_path / "g.tif").pixels[..., 0], np.round(ramp * 65535 / 4095).astype(int)
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_level_of_gray_counts_in_its_own_depth(tmp_path: Path, bits: int) -> None:
    """Level 1 of 4 is 85 of 255: comparing the spread levels with 1 finds nothing."""
    full = 2**bits - 1
    values = np.array([0, 1, full, 1, 0, full, 1, 1])
    planes = (values[:, None] >> np.arange(bits)[::-1]) & 1
    key = chunk(b"tRNS", struct.pack(">H", 1))
    data = gray_png(bits, np.packbits(planes.reshape(-1)).tobytes(), 8, key)
    (tmp_path / "g.png").write_bytes(data)

    image = read(tmp_path / "g.png")

    assert header(tmp_path / "g.png").alpha
    assert np.array_equal(image.pixels[0, :, 0], values * 255 // full)
    assert np.array_equal(image.alpha[0], np.where(values == 1, 0, 255))


COLORS = {
    b"gAMA": struct.pack(">I", 100_000),
    b"cHRM": struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000),
    b"cICP": bytes([9, 16, 0, 1]),
}


@pytest.mark.parametrize("name", COLORS)
@pytest.mark.parametrize("bits", [8, 16])
def test_what_levels_mean_goes_from_png_to_png(tmp_path: Path, name: bytes, bits: int) -> None:
    """Linear, wide and PQ images look wrong without these chunks; JPEG has no place for them."""
    image = read(with_chunks(tmp_path / "a.png", chunk(name, COLORS[name])))
    if bits == 16:
        image = Image(pixels=image.pixels.astype(np.uint16) * 257, chunks=image.chunks)

    write(tmp_path / "b.png", image)

    assert read(tmp_path / "b.png").chunks == ((name, COLORS[name]),)
    assert chunk(name, COLORS[name]) in (tmp_path / "b.png").read_bytes()
    with pytest.raises(ImageError, match=r"b\.webp: .*(not sRGB|16)"):
        write(tmp_path / "b.webp", image)


@pytest.mark.parametrize("odd", ["short", "long", "late"])
@pytest.mark.parametrize("name", COLORS)
def test_a_chunk_of_colors_that_means_nothing_is_left_out(
    tmp_path: Path, name: bytes, odd: str
) -> None:
    """Readers pass over chunks of the wrong length, and of colors behind the pixels."""
    body = {"short": COLORS[name][:1], "long": COLORS[name] + b"\0", "late": COLORS[name]}[odd]
    path = with_chunks(tmp_path / "a.png", *([] if odd == "late" else [chunk(name, body)]))
    if odd == "late":
        data = path.read_bytes()
        path.write_bytes(data[:-12] + chunk(name, body) + data[-12:])

    image = read(path)
    write(tmp_path / "b.jpg", image)
    write(tmp_path / "b.png", image)

    assert image.chunks == read(tmp_path / "b.png").chunks == ()
    assert header(path).width == image.pixels.shape[1]


def test_chunks_that_say_srgb_are_no_obstacle(tmp_path: Path) -> None:
    gamma, space = chunk(b"gAMA", struct.pack(">I", 45455)), chunk(b"sRGB", b"\0")

    write(tmp_path / "a.jpg", read(with_chunks(tmp_path / "a.png", gamma, space)))

    assert read(tmp_path / "a.jpg").chunks == ()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_resolution_is_kept(tmp_path: Path, suffix: str) -> None:
    smooth().save(tmp_path / f"a{suffix}", dpi=(300, 150))

    write(tmp_path / f"b{suffix}", read(tmp_path / f"a{suffix}"))

    with PillowImage.open(tmp_path / f"b{suffix}") as back:
        assert tuple(round(float(value)) for value in back.info["dpi"]) == (300, 150)


def test_resolution_turns_with_the_image(tmp_path: Path) -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    smooth().save(tmp_path / "a.png", dpi=(300, 150), exif=exif)

    assert [round(value) for value in read(tmp_path / "a.png").dpi] == [150, 300]


def photograph(**tags: object) -> bytes:
    """An EXIF block with the sizes of another image in it."""
    exif = PillowImage.Exif()
    exif[0x010F] = "a camera"
    exif[0x0100], exif[0x0101] = 9999, 8888
    exif.get_ifd(0x8769)[0xA002], exif.get_ifd(0x8769)[0xA003] = 9999, 8888
    return exif.tobytes()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
def test_sizes_in_exif_are_those_of_the_result(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"a{suffix}", Image(pixels=levels(16, 24, 3), exif=photograph()))

    with PillowImage.open(tmp_path / f"a{suffix}") as image:
        exif = image.getexif()
        inner = exif.get_ifd(0x8769)
    assert (exif[0x0100], exif[0x0101]) == (inner[0xA002], inner[0xA003]) == (24, 16)
    assert exif[0x010F] == "a camera"
    assert read(tmp_path / f"a{suffix}").exif is not None


def damaged_blocks() -> list[bytes]:
    block = photograph()
    rng = np.random.default_rng(5)
    spoilt = [b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0" + b"\xff" * 40, block[: len(block) // 2]]
    for _ in range(60):
        mutant = bytearray(block)
        for _ in range(int(rng.integers(1, 6))):
            mutant[int(rng.integers(6, len(block)))] = int(rng.integers(256))
        spoilt.append(bytes(mutant))
    return spoilt


def jpeg_with(block: bytes) -> bytes:
    with io.BytesIO() as file:
        smooth().save(file, "JPEG", quality=90)
        data = file.getvalue()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]


def test_damaged_exif_neither_refuses_an_image_nor_its_result(tmp_path: Path) -> None:
    """Sixty blocks spoilt at random: each image is read, and what is written is read again."""
    for number, block in enumerate(damaged_blocks()):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(jpeg_with(block))
        header(path)
        image = read(path)
        assert {24, 40} == set(image.pixels.shape[:2])
        for suffix in (".jpg", ".png", ".webp", ".tif", ".avif")[:: 1 if number < 12 else 4]:
            write(tmp_path / f"out{suffix}", image)
            assert read(tmp_path / f"out{suffix}").pixels.shape == image.pixels.shape


def test_any_exif_block_may_be_written(tmp_path: Path) -> None:
    """Also one that did not come from ``read``: it is left out where it is no EXIF."""
    for number, block in enumerate([*damaged_blocks()[:20], b"exif"]):
        for suffix in (".tif", ".png", ".jpg"):
            write(tmp_path / f"{number}{suffix}", Image(pixels=levels(4, 4, 3), exif=block))
            read(tmp_path / f"{number}{suffix}")


def test_damaged_notes_and_profiles_of_png_are_left_out(tmp_path: Path) -> None:
    bad_text = chunk(b"tEXt", b"k\0value")[:-1] + b"\0"
    bad_profile = chunk(b"iCCP", b"name\0\0no zlib")

    image = read(with_chunks(tmp_path / "a.png", bad_text, bad_profile))

    assert image.icc is None
    assert image.notes == ("its color profile is damaged and was left out",)


def test_windows_names_and_avif_are_images(tmp_path: Path) -> None:
    for name in ("a.jfif", "b.jpe", "c.JPG"):
        smooth().save(tmp_path / name, "JPEG", quality=95)
    smooth().save(tmp_path / "d.avif", quality=95)

    listing = list_images(tmp_path)

    assert {path.name for path in listing.images} == {"a.jfif", "b.jpe", "c.JPG", "d.avif"}
    assert all(read(path).pixels.shape == (24, 40, 3) for path in listing.images)
    assert {".jfif", ".jpe", ".avif"} <= set(WRITTEN)


def test_what_is_passed_over_is_counted_by_kind(tmp_path: Path) -> None:
    for name in ("a.png", "b.jp2", "c.ico", "d.ICO", "e.txt", ".hidden", "f", "g.heic", "h.jxl"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "below").mkdir()
    (tmp_path / "below/i.png").write_bytes(b"")

    flat, deep = list_images(tmp_path), list_images(tmp_path, recursive=True)

    assert ".png" in EXTENSIONS
    counted = sum(flat.passed_over.values()) + len(flat.images)
    assert counted == 10
    assert "2 ICO" in flat.sentence
    assert "1 JPEG 2000" in flat.sentence
    assert "1 folder (--recursive enters it)" in flat.sentence
    assert "1 without an extension" in flat.sentence
    assert "folder" not in deep.sentence
    assert {path.name for path in deep.images} - {"g.heic", "h.jxl"} == {"a.png", "i.png"}


def test_heic_is_read_where_its_package_is(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    heif.register_heif_opener()
    image = smooth()
    image.save(tmp_path / "a.heic", quality=-1, chroma=444, matrix_coefficients=0)

    assert np.array_equal(read(tmp_path / "a.heic").pixels, np.asarray(image))


def test_jpeg_xl_is_read_where_its_package_is(tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl", reason="pillow-jxl-plugin is not installed")
    image = smooth()
    image.save(tmp_path / "a.jxl", lossless=True)

    assert np.array_equal(read(tmp_path / "a.jxl").pixels, np.asarray(image))
    with pytest.raises(ImageError, match="40 x 24 pixels are more than"):
        read(tmp_path / "a.jxl", max_pixels=100)


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dukd.images.formats.find_spec", lambda _: None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (tmp_path / "a.jxl").write_bytes(b"\xff\x0a" + bytes(40))

    for name, extra in (("a.heic", "heic"), ("a.jxl", "jxl")):
        with pytest.raises(ImageError, match=rf"pip install 'dukd\[{extra}\]'"):
            read(tmp_path / name)


def test_deep_and_foreign_avif_is_refused(tmp_path: Path) -> None:
    """Pillow would give 8 of 10 bits, and PQ levels as if they were sRGB."""
    smooth().save(tmp_path / "a.avif")
    data = (tmp_path / "a.avif").read_bytes()
    place = data.index(b"av1C") + 6
    deep = data[:place] + bytes([data[place] | 0x40]) + data[place + 1 :]
    (tmp_path / "deep.avif").write_bytes(deep)
    place = data.index(b"colrnclx") + 8
    (tmp_path / "pq.avif").write_bytes(data[:place] + b"\0\x09\0\x10" + data[place + 4 :])

    with pytest.raises(ImageError, match="has 10 bits"):
        read(tmp_path / "deep.avif")
    with pytest.raises(ImageError, match=r"not sRGB \(cICP 9, 16\)"):
        read(tmp_path / "pq.avif")


def saved_webp(path: Path, *, lossless: bool, alpha: bool, icc: bool, count: int) -> None:
    shown = [  # nothing wholly transparent, whose colors encoders of animations leave out
        PillowImage.fromarray(levels(24, 40, 4 if alpha else 3) | 1) for _ in range(count)
    ]
    profile = {"icc_profile": bytes(128)} if icc else {}
    more = {"save_all": True, "append_images": shown[1:]} if count > 1 else {}
    shown[0].save(path, lossless=lossless, exact=True, **profile, **more)


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("alpha", [True, False])
@pytest.mark.parametrize("icc", [True, False])
@pytest.mark.parametrize("count", [1, 2])
def test_a_lossless_webp_stays_lossless(
    tmp_path: Path, *, lossless: bool, alpha: bool, icc: bool, count: int
) -> None:
    """Noise, of which any loss is seen. Who names a quality gets it; other formats do not care."""
    saved_webp(tmp_path / "a.webp", lossless=lossless, alpha=alpha, icc=icc, count=count)
    found = [frame.image for frame in frames(tmp_path / "a.webp")]
    assert [image.lossless for image in found] == [lossless] * count

    def lost(quality: int | None) -> bool:
        """Whether what is written is read as other pixels."""
        write_frames(tmp_path / "b.webp", found, quality=quality)
        again = [frame.image.pixels for frame in frames(tmp_path / "b.webp")]
        return not all(np.array_equal(a, b.pixels) for a, b in zip(again, found, strict=True))

    assert lost(None) != lossless
    assert (lost(95), lost(100)) == (True, False)


def test_a_single_lossless_webp_is_written_so(tmp_path: Path) -> None:
    saved_webp(tmp_path / "a.webp", lossless=True, alpha=False, icc=False, count=1)
    image = read(tmp_path / "a.webp")

    write(tmp_path / "b.webp", image)
    write(tmp_path / "c.jpg", image)

    assert np.array_equal(read(tmp_path / "b.webp").pixels, image.pixels)
    assert read(tmp_path / "b.webp").lossless
    assert not read(tmp_path / "c.jpg").lossless


def animation(path: Path, count: int = 3) -> list[np.ndarray]:
    shown = [np.full((6, 8, 3), 60 * k, np.uint8) for k in range(count)]
    first, *rest = (PillowImage.fromarray(pixels) for pixels in shown)
    options: dict[str, object] = {"duration": 70, "loop": 2} if path.suffix != ".tif" else {}
    if path.suffix == ".webp":
        options["lossless"] = True
    first.save(path, save_all=True, append_images=rest, **options)
    return shown


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_animations_and_pages_come_frame_by_frame(tmp_path: Path, suffix: str) -> None:
    expected = animation(tmp_path / f"a{suffix}")

    found = list(frames(tmp_path / f"a{suffix}"))

    assert [frame.number for frame in found] == [0, 1, 2]
    assert all(frame.count == 3 for frame in found)
    for frame, pixels in zip(found, expected, strict=True):
        assert np.array_equal(np.broadcast_to(frame.image.pixels, pixels.shape), pixels)
        assert frame.duration == (None if suffix == ".tif" else 70)
    assert header(tmp_path / f"a{suffix}").frames == 3
    assert header(tmp_path / f"a{suffix}").problem.startswith("holds 3 images")
    with pytest.raises(ImageError, match="holds 3 images; split it"):
        read(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".webp", ".png", ".tif"])
def test_frames_are_written_and_come_back(tmp_path: Path, suffix: str) -> None:
    shown = [Image(pixels=levels(5, 7, 3)) for _ in range(3)]
    durations = [] if suffix == ".tif" else [50, 60, 70]

    write_frames(tmp_path / f"a{suffix}", shown, durations=durations, quality=100)

    back = list(frames(tmp_path / f"a{suffix}"))
    assert [frame.duration for frame in back] == (durations or [None] * 3)
    for frame, image in zip(back, shown, strict=True):
        assert np.array_equal(frame.image.pixels, image.pixels)


def test_a_photograph_with_a_map_of_gain_is_one_image(tmp_path: Path) -> None:
    """Telephones put a second JPEG behind the first; it became an animated WebP, or was refused."""
    photograph = smooth()
    photograph.save(tmp_path / "one.jpg", quality=95)
    photograph.save(
        tmp_path / "two.jpg", "MPO", quality=95, save_all=True, append_images=[smooth(20, 12)]
    )

    found = read(tmp_path / "two.jpg")

    assert header(tmp_path / "two.jpg").frames == 1
    assert header(tmp_path / "two.jpg").problem == ""
    assert np.array_equal(found.pixels, read(tmp_path / "one.jpg").pixels)
    assert any("further images" in note for note in found.notes)
    assert read(tmp_path / "one.jpg").notes == ()


@pytest.mark.parametrize("durations", [[100, 0], [0, 0], [0, 100]])
def test_a_frame_that_is_shown_for_no_time_is_a_frame(tmp_path: Path, durations: list[int]) -> None:
    """Pillow says nothing of such a duration, and the animation could not be written again."""
    first, second = smooth(), smooth()
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second], duration=durations)

    found = list(frames(tmp_path / "a.gif"))
    write_frames(
        tmp_path / "a.png", [f.image for f in found], durations=[f.duration or 0 for f in found]
    )

    assert [frame.duration for frame in found] == durations
    assert [frame.duration for frame in frames(tmp_path / "a.png")] == durations
    with pytest.raises(ImageError, match="2 frames, but 1 durations"):
        write_frames(tmp_path / "b.png", [f.image for f in found], durations=[100])


def test_signed_levels_are_refused(tmp_path: Path) -> None:
    """Read as unsigned ones, the darkest level would be the middle gray."""
    content = bytearray(gray_tiff(8, 1, bytes(range(64)), 64, 1))
    entry = content.index(struct.pack("<HHI", 278, 4, 1))
    content[entry : entry + 12] = struct.pack("<HHIHH", 339, 3, 1, 2, 0)
    (tmp_path / "s.tif").write_bytes(content)

    with pytest.raises(ImageError, match="signed levels"):
        read(tmp_path / "s.tif")


@pytest.mark.parametrize(("kept", "extra"), [(3, ["unspecified"]), (1, ["unspecified"])])
def test_channels_of_unsaid_meaning_are_left_out_with_a_word(
    tmp_path: Path, kept: int, extra: list[str]
) -> None:
    shown = levels(12, 20, kept + 1)
    interpretation = "rgb" if kept == 3 else "minisblack"
    tifffile.imwrite(
        tmp_path / "a.tif",
        shown,
        photometric=interpretation,
        extrasamples=extra,
        planarconfig="contig",
    )

    found = read(tmp_path / "a.tif")

    assert np.array_equal(found.pixels, shown[..., :kept])
    assert found.alpha is None
    assert any("whose meaning the TIFF does not say" in note for note in found.notes)


def test_a_single_image_is_one_frame(tmp_path: Path) -> None:
    smooth().save(tmp_path / "a.png")

    (frame,) = frames(tmp_path / "a.png")

    assert (frame.number, frame.count, frame.duration) == (0, 1, None)
    assert np.array_equal(frame.image.pixels, read(tmp_path / "a.png").pixels)


def test_frames_that_no_file_holds_are_refused(tmp_path: Path) -> None:
    one, other = Image(pixels=levels(5, 7, 3)), Image(pixels=levels(5, 8, 3))
    deep = Image(pixels=np.zeros((2, 2, 3), np.uint16))
    for name, parts, reason in (
        ("a.gif", [one], r"as \.webp, \.png or \.tif, not '\.gif'"),
        ("a.webp", [one, other], "of one size"),
        ("a.png", [deep], "8 bits"),
        ("a.png", [], "no frames"),
    ):
        with pytest.raises(ImageError, match=reason):
            write_frames(tmp_path / name, parts)
    assert list(tmp_path.iterdir()) == []


def test_limits_of_formats_are_known_before_the_work() -> None:
    assert fits(".webp", 16_383, 16_383)
    assert not fits(".webp", 16_384, 1)
    assert fits(".jpg", 65_500, 10)
    assert not fits(".JPEG", 65_501, 10)
    assert fits(".png", 10**6, 10)
    assert fits(".tif", 40_000, 40_000)  # 4.8 GB: BigTIFF
    assert not fits(".bmp", 40_000, 40_000)
    assert not fits(".gif", 1, 1)
    assert not fits(".txt", 1, 1)
    assert can_hold(".avif", bits=8, alpha=True)
    assert not can_hold(".avif", bits=16, alpha=False)


def test_a_tiff_above_four_gigabytes_is_a_big_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dukd.images.writing._BIG_TIFF", 100)
    pixels = levels(20, 30, 3)

    write(tmp_path / "a.tif", Image(pixels=pixels))

    assert (tmp_path / "a.tif").read_bytes()[:4] == b"II+\0"
    assert np.array_equal(read(tmp_path / "a.tif").pixels, pixels)


def seconds(path: Path) -> float:
    started = time.perf_counter()
    for look in (header, read):
        try:
            look(path)
        except ImageError as error:
            assert str(path) in str(error)  # noqa: PT017  either outcome is right
    return time.perf_counter() - started


def test_a_jpeg_of_endless_scans_is_refused_at_once(tmp_path: Path) -> None:
    """The last scan of a progressive JPEG 3,000 times more: half a minute of decoding."""
    path = tmp_path / "a.jpg"
    PillowImage.fromarray(np.zeros((2000, 2000, 3), np.uint8)).save(path, progressive=True)
    data = path.read_bytes()
    place = data.rindex(b"\xff\xda")
    path.write_bytes(data[:place] + data[place:-2] * 3000 + data[-2:])

    with pytest.raises(ImageError, match=r"JPEG of 30\d\d scans, made to take long"):
        read(path)
    assert seconds(path) < 2
    assert read_rgb8(saved(tmp_path / "b.jpg", progressive=True)).shape == (24, 40, 3)


def saved(path: Path, **options: object) -> Path:
    smooth().save(path, **options)
    return path


def test_a_tiff_of_endless_pages_is_refused_at_once(tmp_path: Path) -> None:
    page = struct.pack("<H", 1) + struct.pack("<HHII", 256, 4, 1, 1)
    length = len(page) + 4
    data = b"II*\0" + struct.pack("<I", 8)
    pages = b"".join(page + struct.pack("<I", 8 + (k + 1) * length) for k in range(100_000))
    (tmp_path / "a.tif").write_bytes(data + pages + bytes(64))
    many = struct.pack("<H", 60_000) + page[2:] * 60_000
    (tmp_path / "b.tif").write_bytes(data + many)

    with pytest.raises(ImageError, match="more than 10000 pages"):
        read(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="60000 tags"):
        read(tmp_path / "b.tif")
    assert seconds(tmp_path / "a.tif") < 2


def test_comments_of_fifty_megabytes_cost_nothing(tmp_path: Path) -> None:
    """They are left out before a decoder sees them, and the pixels are as without."""
    path = saved(tmp_path / "a.jpg", quality=95)
    data, expected = path.read_bytes(), read(path).pixels
    comment = b"\xff\xfe\xff\xff" + bytes(65_533)
    path.write_bytes(data[:2] + comment * 760 + data[2:])
    assert np.array_equal(read(path).pixels, expected)
    assert seconds(path) < 3

    path = saved(tmp_path / "a.gif")
    data, expected = path.read_bytes(), read(path).pixels
    start = 13 + (3 << ((data[10] & 7) + 1))
    comment = b"\x21\xfe" + (b"\xff" + b"x" * 255) * 195_000 + b"\0"
    path.write_bytes(data[:start] + comment + data[start:])
    assert np.array_equal(read(path).pixels, expected)
    assert seconds(path) < 3

    path = with_chunks(tmp_path / "a.png", chunk(b"tEXt", b"k\0" + b"x" * 50_000_000))
    assert read(path).pixels.shape == (24, 40, 3)
    assert seconds(path) < 3

    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6 #" + b"x" * 50_000_000 + b"\n1 1 255\n123")
    with pytest.raises(ImageError, match="no readable PPM header in its first 64 KB"):
        read(path)


def test_our_files_are_read_by_others(tmp_path: Path) -> None:
    """Pillow alone opens what is written with every kind of metadata, and all frames."""
    image = Image(pixels=levels(9, 8, 3), exif=photograph(), dpi=(72, 72), icc=None)
    for suffix in WRITTEN:
        write(tmp_path / f"a{suffix}", image)
        with PillowImage.open(tmp_path / f"a{suffix}") as back:
            assert back.size == (8, 9)
            back.load()
    write_frames(tmp_path / "b.webp", [image, image, image])
    with PillowImage.open(tmp_path / "b.webp") as back:
        assert len(list(ImageSequence.Iterator(back))) >= 1
    assert images.MAX_PIXELS == 100_000_000


DEFLATED = {
    "8 bits": (np.uint8, {}),
    "16 bits": (np.uint16, {}),
    "differences": (np.uint8, {"predictor": 2}),
    "tiles": (np.uint8, {"tile": (16, 16)}),
    "planes": (np.uint8, {"planarconfig": "separate"}),
    "strips": (np.uint8, {"rowsperstrip": 5}),
}


@pytest.mark.parametrize("name", DEFLATED)
def test_a_deflated_tiff_is_refused_wherever_its_levels_were_changed(
    tmp_path: Path, name: str
) -> None:
    """libtiff fills a strip and never looks at the sum behind it."""
    dtype, options = DEFLATED[name]
    rng, path = np.random.default_rng(0), tmp_path / "a.tif"
    levels = rng.integers(np.iinfo(dtype).max, size=(24, 40, 3)).astype(dtype)
    shown = levels.transpose(2, 0, 1) if "planarconfig" in options else levels
    tifffile.imwrite(path, shown, photometric="rgb", compression="zlib", **options)
    with tifffile.TiffFile(path) as file:
        places = zip(file.pages[0].dataoffsets, file.pages[0].databytecounts, strict=True)
        strips = list(places)
    assert np.array_equal(read(path).pixels, levels)
    sound = path.read_bytes()

    for start, count in strips:
        for at in (start + 12, start + count // 2, start + count - 1):
            changed = bytearray(sound)
            changed[at] ^= 0xFF
            path.write_bytes(changed)
            with pytest.raises(ImageError, match=r"a\.tif.* damaged"):
                read(path)
