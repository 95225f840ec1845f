"""What enlarging a video promises: frames, times, colors and sound, and no work lost to a stop."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from dukd.cli.program import run
from dukd.deploy import video
from dukd.deploy.stretches import VideoError, VideoOptions
from dukd.deploy.video import upscale_video
from dukd.networks import EDSRConfig
from dukd.networks.files import weights

av = pytest.importorskip("av")

FRAMES, W, H = 9, 32, 24


class Doubled:
    """Every pixel four times, so that what comes out is known."""

    name, scale, radius, size_multiple = "doubled", 2, 0, 1

    def __init__(self, limit=10**9):
        self.seen, self.limit = 0, limit

    def __call__(self, lr):
        if lr.shape[-1] == W:
            self.seen += 1
            if self.seen > self.limit:
                raise KeyboardInterrupt
        return lr.repeat_interleave(2, 2).repeat_interleave(2, 3)


def _images():
    y, x = np.mgrid[:H, :W]
    for number in range(FRAMES):
        yield np.stack([x * 7 % 256, y * 9 % 256, np.full_like(x, 20 * number)], -1).astype("u1")


def _clip(path, *, sound=True, matrix=1, full=False, pts=range(FRAMES)):
    """A clip without loss, whose frames are known."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv444p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if full else 1
        voice = out.add_stream("flac", rate=8000, layout="mono") if sound else None
        for number, pixels in zip(pts, _images(), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(
                format="yuv444p",
                dst_colorspace=5 if matrix == 6 else matrix,
                dst_color_range=2 if full else 1,
            )
            frame.pts, frame.time_base = 40 * number, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if voice is not None:
            for start in range(0, 2400, 400):
                tone = (np.sin(np.arange(400) / 5) * 9000).astype("i2")[None]
                frame = av.AudioFrame.from_ndarray(tone, "s16", "mono")
                frame.rate, frame.pts = 8000, start
                out.mux(voice.encode(frame))
            out.mux(voice.encode())
    return path


def _frames(path):
    with av.open(str(path)) as clip:
        found = list(clip.decode(clip.streams.video[0]))
    return found, [float(frame.pts * frame.time_base) for frame in found]


def _sound(path):
    with av.open(str(path)) as clip:
        return [bytes(packet) for packet in clip.demux(clip.streams.audio[0]) if packet.size]


@pytest.mark.parametrize(("matrix", "full"), [(1, False), (6, False), (6, True)])
def test_frames_times_colors_and_sound_come_through(matrix, full, tmp_path):
    """ffv1 in 4:4:4 loses nothing but what rounding to YUV and back does, twice."""
    source = _clip(tmp_path / "a.mkv", matrix=matrix, full=full, pts=[0, 1, 2, 3, 5, 6, 7, 10, 12])

    done = upscale_video(Doubled(), source, tmp_path / "b.mkv", VideoOptions(codec="ffv1"))

    assert (done.frames, done.kept) == (FRAMES, 0)
    (found, times), (_, before) = _frames(done.target), _frames(source)
    assert times == before
    for frame, pixels in zip(found, _images(), strict=True):
        assert (int(frame.colorspace), int(frame.color_range)) == (matrix, 2 if full else 1)
        rgb = frame.reformat(
            format="rgb24",
            src_colorspace=5 if matrix == 6 else matrix,
            src_color_range=2 if full else 1,
            dst_color_range=2,
        ).to_ndarray()
        expected = pixels.repeat(2, 0).repeat(2, 1).astype(int)
        assert np.abs(rgb - expected).max() <= 6
        assert np.abs(rgb - expected).mean() < 1.5
    assert _sound(done.target) == _sound(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mkv", "b.mkv"]


def test_what_is_finished_survives_a_stop(tmp_path, monkeypatch):
    source = _clip(tmp_path / "a.mkv")
    whole = upscale_video(Doubled(), source, tmp_path / "whole.mp4", VideoOptions(crf=1))
    monkeypatch.setattr(video, "_STRETCH", 4)
    with pytest.raises(KeyboardInterrupt):
        upscale_video(Doubled(limit=6), source, tmp_path / "b.mp4", VideoOptions(crf=1))
    assert not (tmp_path / "b.mp4").exists()

    rest = Doubled()
    done = upscale_video(rest, source, tmp_path / "b.mp4", VideoOptions(crf=1))

    assert (done.kept, rest.seen) == (4, FRAMES - 4)
    (found, times), (expected, before) = _frames(done.target), _frames(whole.target)
    assert times == before
    for frame, other in zip(found, expected, strict=True):
        difference = frame.to_ndarray(format="rgb24").astype(int) - other.to_ndarray(format="rgb24")
        assert np.abs(difference).mean() < 2
    assert not list(tmp_path.glob("*.parts"))


def test_parts_of_another_video_are_not_mixed_in(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_STRETCH", 4)
    source = _clip(tmp_path / "a.mkv")
    with pytest.raises(KeyboardInterrupt):
        upscale_video(Doubled(limit=6), source, tmp_path / "b.mp4")
    source = _clip(tmp_path / "a.mkv", sound=False)

    done = upscale_video(Doubled(), source, tmp_path / "b.mp4")

    assert done.kept == 0


@pytest.mark.parametrize(
    ("target", "options", "sentence"),
    [
        ("b.avi", VideoOptions(), "a video is written as .m4v, .mkv, .mov, .mp4, but the result"),
        ("b.mp4", VideoOptions(codec="ffv1"), "ffv1 needs a file ending in .mkv"),
        ("a.mkv", VideoOptions(), "the result would overwrite the input"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(target, options, sentence, tmp_path):
    source, upscaler = _clip(tmp_path / "a.mkv"), Doubled()
    with pytest.raises(VideoError, match=sentence):
        upscale_video(upscaler, source, tmp_path / target, options)
    assert upscaler.seen == 0


def test_on_the_command_line(tmp_path, capsys):
    torch.manual_seed(0)
    network = EDSRConfig(scale=2, width=4, blocks=1, value_range=1.0).build()
    weights.write(tmp_path / "m.safetensors", network)
    model = ["-m", str(tmp_path / "m.safetensors")]
    source = _clip(tmp_path / "a.mkv", matrix=2)
    out = tmp_path / "out.mp4"

    assert run(["upscale", str(source), "-o", str(out), *model]) == 0

    assert "no color matrix is given: taken for BT.601" in capsys.readouterr().out
    with av.open(str(out)) as clip:
        context = clip.streams.video[0].codec_context
        assert (context.width, context.height, context.pix_fmt) == (2 * W, 2 * H, "yuv420p")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    assert run(["upscale", str(tmp_path / "bad.mp4"), "-o", str(tmp_path / "o"), *model]) == 1
    assert "bad.mp4 cannot be read or written as a video" in capsys.readouterr().err


def test_times_that_are_no_milliseconds_stay_exact(tmp_path, monkeypatch):
    """29.97 frames per second, as cameras have it."""
    monkeypatch.setattr(video, "_STRETCH", 2)
    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(30000, 1001))
        stream.width, stream.height = W, H
        for pixels in _images():
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        out.mux(stream.encode())

    done = upscale_video(Doubled(), source, tmp_path / "b.mp4")

    assert _frames(done.target)[1] == _frames(source)[1]
