"""Enlarge a video: frames are streamed, sound is kept, and what is finished survives a stop.

Finished stretches of frames lie in a folder beside the result; the same command goes on behind
them. They are joined with the sound at the end, without encoding again. Every stretch begins with a
key frame and has no frames that look ahead, so that frames follow each other as they do in time.
"""

import json
import os
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from dukd.core import files
from dukd.core.files import Progress, real, silent
from dukd.deploy import frames
from dukd.deploy.image import upscale_image
from dukd.deploy.stretches import (
    Stretch,
    VideoError,
    VideoOptions,
    count,
    in_order,
    package,
    times,
)
from dukd.networks.upscaler import Upscaler, UpscalerError

SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".m4v", ".webm", ".avi", ".ts", ".mpg", ".mpeg"})
"""Endings of files that are taken for videos."""
WRITTEN = frozenset({".mp4", ".mkv", ".mov", ".m4v"})
"""Endings that are written."""
_STRETCH = 256  # frames, at most
_SECONDS = 60.0  # after which a stretch is closed, so that a stop costs no more


@dataclass(frozen=True)
class Enlarged:
    """A video that was enlarged."""

    target: Path
    frames: int
    kept: int
    """Frames that were finished before."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Clip:
    """What is known of a video beforehand."""

    path: Path
    width: int
    height: int
    frames: int
    """As many as it says, or as its length makes likely; 0 for unknown."""


def inspect(path: Path) -> Clip:
    """Look at a video.

    Raises:
        VideoError: If it is not one, or PyAV is missing.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        frames_said = int(stream.frames)
        if not frames_said and stream.average_rate and container.duration:
            frames_said = round(float(stream.average_rate) * container.duration / 1e6)
        return Clip(path, stream.codec_context.width, stream.codec_context.height, frames_said)


def upscale_video(
    upscaler: Upscaler,
    source: Path,
    target: Path,
    options: VideoOptions | None = None,
    *,
    progress: Progress = silent,
) -> Enlarged:
    """Enlarge every frame of a video; sound is copied.

    Args:
        upscaler: What enlarges.
        source: The video.
        target: The result, which appears whole; parts of it lie in ``<target>.parts`` until then.
        options: How it is written.
        progress: Called after every frame.

    Raises:
        VideoError: If the video is damaged at its beginning, or the result cannot hold what it has.
        UpscalerError: If the upscaler is at fault.
    """
    options = options or VideoOptions()
    clip = inspect(source)
    _check(source, target, options)
    parts = target.with_name(target.name + ".parts")
    _begin(parts, _identity(upscaler, source, options))
    notes: dict[str, None] = {}
    kept = sum(count(part) for part in in_order(parts))
    done = _stretches(upscaler, clip, parts, options, notes, progress)
    if not done:
        raise VideoError(f"{source} has no frame that can be read")
    _join(parts, source, target, notes)
    shutil.rmtree(parts)
    return Enlarged(target, done, kept, tuple(notes))


def _stretches(
    upscaler: Upscaler,
    clip: Clip,
    parts: Path,
    options: VideoOptions,
    notes: dict[str, None],
    progress: Progress,
) -> int:
    """Enlarge what is not finished yet; the number of frames of all stretches."""
    done = sum(count(part) for part in in_order(parts))
    began, total = time.monotonic(), max(clip.frames, 1)
    writing: Stretch | None = None
    progress(min(done, total), total, clip.path.name)
    try:
        for number, frame in enumerate(_decoded(clip.path, notes)):
            if number < done:
                continue
            said = frames.colors(frame)
            notes |= dict.fromkeys([said.note] if said.note else [])
            image, note = upscale_image(upscaler, frames.to_image(frame, said), tile=options.tile)
            notes |= dict.fromkeys([note] if note else [])
            if writing is None:
                writing = Stretch(parts, number, frame, said, options)
            writing.add(image, frame, said)
            if writing.count == _STRETCH or time.monotonic() - began > _SECONDS:
                writing.close()
                writing, began = None, time.monotonic()
            done = number + 1
            progress(min(done, total), max(total, done), clip.path.name)
        if writing is not None:
            writing.close()
    except BaseException:
        if writing is not None:
            writing.drop()
        raise
    return done


def _check(source: Path, target: Path, options: VideoOptions) -> None:
    if target.suffix.lower() not in WRITTEN:
        listed = ", ".join(sorted(WRITTEN))
        raise VideoError(f"a video is written as {listed}, but the result is {target}")
    if options.codec == "ffv1" and target.suffix.lower() != ".mkv":
        raise VideoError(f"ffv1 needs a file ending in .mkv, but the result is {target}")
    if real(target) == real(source):
        raise VideoError(f"{target}: the result would overwrite the input")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _failures(target), _opened(source) as container:
        av = package()
        with av.open(os.devnull, "w", format=_container(target)) as trial:
            for stream in container.streams.audio:
                trial.add_stream_from_template(stream)


def _identity(upscaler: Upscaler, source: Path, options: VideoOptions) -> dict[str, object]:
    """What finished parts have to agree in; a sample of the output stands for the upscaler."""
    lr = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    stat = source.stat()
    return {
        "source": [source.name, stat.st_size, stat.st_mtime_ns],
        "upscaler": [upscaler.name, upscaler.scale, round(float(upscaler(lr).abs().sum()))],
        "options": [options.codec, options.crf],
    }


def _begin(parts: Path, identity: dict[str, object]) -> None:
    """Make the folder of parts; those of another model, video or way are thrown away."""
    record, text = parts / "video.json", json.dumps(identity)
    if parts.exists() and (not record.is_file() or record.read_text(encoding="utf-8") != text):
        if not record.is_file() and any(parts.iterdir()):
            raise VideoError(f"{parts} is not ours: move it away")
        shutil.rmtree(parts)
    parts.mkdir(exist_ok=True)
    if not record.is_file():
        files.write_text(record, text)


def _decoded(source: Path, notes: dict[str, None]) -> Iterator[Any]:
    """Every frame; what is damaged on the way is passed over, and said."""
    with _opened(source) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        av = package()
        damaged = 0
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except av.error.InvalidDataError:
                damaged += 1
        if damaged:
            notes[f"{damaged} damaged packets were passed over"] = None


def _join(parts: Path, source: Path, target: Path, notes: dict[str, None]) -> None:
    """Put finished stretches and the sound into one file, by their times."""
    av = package()
    aside = target.with_name(f".{target.name}.unfinished")
    try:
        with (
            _failures(target),
            _opened(source) as original,
            av.open(str(aside), "w", format=_container(target)) as out,
        ):
            stretches = in_order(parts)
            with av.open(str(stretches[0])) as first:
                video = out.add_stream_from_template(first.streams.video[0])
            video.time_base = Fraction(*times(stretches[0])["base"])
            ratio = original.streams.video[0].codec_context.sample_aspect_ratio
            if ratio:
                video.sample_aspect_ratio = ratio
            sound = {s.index: out.add_stream_from_template(s) for s in original.streams.audio}
            others = len(original.streams) - len(original.streams.audio) - 1
            if others:
                notes[f"{others} streams that are neither the frames nor sound were left out"] = (
                    None
                )
            packets = _merged(_ofin_order(stretches, video), _of_sound(original, sound))
            for packet in packets:
                out.mux(packet)
        files.sync(aside)
        aside.replace(target)
        files.sync_folder(target.parent)
    finally:
        aside.unlink(missing_ok=True)


def _ofin_order(stretches: list[Path], stream: Any) -> Iterator[Any]:  # noqa: ANN401  of PyAV
    for path in stretches:
        exact = times(path)
        with package().open(str(path)) as part:
            packets = (p for p in part.demux(part.streams.video[0]) if p.size)
            for packet, at in zip(packets, exact["times"], strict=True):
                packet.time_base = Fraction(*exact["base"])
                packet.pts = packet.dts = at
                packet.duration = 0
                packet.stream = stream
                yield packet


def _of_sound(original: Any, streams: dict[int, Any]) -> Iterator[Any]:  # noqa: ANN401  of PyAV
    if not streams:
        return
    for packet in original.demux(*original.streams.audio):
        if packet.size and packet.dts is not None:
            packet.stream = streams[packet.stream.index]
            yield packet


def _merged(*rows: Iterator[Any]) -> Iterator[Any]:
    """Packets of several rows in the order of their times."""
    heads = [(next(row, None), row) for row in rows]
    while any(packet is not None for packet, _ in heads):
        _, i = min(
            (float(p.dts * p.time_base), i) for i, (p, _) in enumerate(heads) if p is not None
        )
        packet, row = heads[i]
        yield packet
        heads[i] = (next(row, None), row)


def _container(target: Path) -> str:
    return {".mkv": "matroska", ".mov": "mov"}.get(target.suffix.lower(), "mp4")


@contextmanager
def _opened(path: Path) -> Generator[Any, None, None]:
    if not path.is_file():
        raise VideoError(f"{path} is not a file")
    with _failures(path), package().open(str(path)) as container:
        if not container.streams.video:
            raise VideoError(f"{path} has no frames, only sound")
        yield container


@contextmanager
def _failures(path: Path) -> Generator[None, None, None]:
    """Make what FFmpeg says of a file a sentence."""
    av = package()
    try:
        yield
    except UpscalerError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, VideoError):
            raise
        said = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{path} cannot be read or written as a video: {said}") from error
