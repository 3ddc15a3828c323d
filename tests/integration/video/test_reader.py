"""Frames out of real containers: the right pictures, at the right times, in bounded memory."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from dynfocus_video.clips import demo_clip
from dynfocus_video.errors import TruncatedVideoError, UnreadableVideoError
from dynfocus_video.reader import iter_frames, read_video
from dynfocus_video.resizing import FrameSize, resize_frames
from dynfocus_video.sampling import Sampling
from tests.integration.video.writing import cut_off, frame_index, picture, write_video

av = pytest.importorskip("av")
# Only PyAV from 17.1 on shows the index of an MP4 file, where every frame is listed.
IN_FRAMES = r"\d+ of 25 frames" if hasattr(av.stream.Stream, "index_entries") else r"\d\.\d of 2\.5 s"


def shown(video) -> list[int]:
    return [frame_index(frame.numpy()) for frame in video.frames]


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.ts", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9")],
)
def test_every_container_gives_the_frames_at_the_ticks(tmp_path, name, codec):
    if codec not in av.codec.codecs_available:
        pytest.skip(f"FFmpeg without {codec}")
    video = read_video(write_video(tmp_path / name, codec=codec), Sampling(fps=2), size=None)
    assert shown(video) == [0, 5, 10, 15, 20]
    assert video.timestamps.tolist() == pytest.approx([0, 0.5, 1, 1.5, 2])
    assert video.duration == pytest.approx(2.5)
    assert (video.source_fps, video.source_size) == (pytest.approx(10), (96, 128))
    assert (video.truncated, video.decoded_share) == (None, 1.0)
    assert video.frames.dtype == torch.uint8


def test_variable_frame_rate_is_read_by_the_clock(tmp_path):
    times = [0.0, 0.1, 0.2, 0.9, 1.0, 1.05, 1.1, 2.4, 3.0, 3.1]
    path = write_video(tmp_path / "vfr.mkv", times=times)
    video = read_video(path, Sampling(fps=1), size=None)
    assert shown(video) == [0, 4, 6, 8]
    assert video.timestamps.tolist() == pytest.approx([0.0, 1.0, 1.1, 3.0])
    assert shown(read_video(path, Sampling(fps=5, rule="index"), size=None))[:3] == [0, 1, 2]


def test_a_stream_without_timestamps_is_counted(tmp_path):
    video = read_video(write_video(tmp_path / "raw.h264", format="h264"), Sampling(frames=5, rule="index"), size=None)
    assert shown(video) == [0, 6, 12, 18, 24]


def test_seeking_over_long_gaps_changes_nothing(tmp_path, monkeypatch):
    from dynfocus_video import pyav_reader

    path = write_video(tmp_path / "long.mp4", 400, gop=20)
    jumped = read_video(path, Sampling(fps=0.13), size=None)
    monkeypatch.setattr(pyav_reader, "_SEEK_GAP", 10**9)
    straight = read_video(path, Sampling(fps=0.13), size=None)
    assert shown(jumped) == [round(t * 10) % 27 for t in jumped.timestamps.tolist()]
    assert torch.equal(jumped.frames, straight.frames)
    assert torch.equal(jumped.timestamps, straight.timestamps)


def test_decord_gives_the_same_pictures():
    pytest.importorskip("decord")
    clip = demo_clip("bikes.mp4")
    ours, theirs = (read_video(clip, Sampling(fps=3), decoder=name, size=None) for name in ("pyav", "decord"))
    assert torch.equal(ours.timestamps, theirs.timestamps)
    difference = (ours.frames.int() - theirs.frames.int()).abs()
    assert difference.float().mean() < 0.5
    assert (difference > 4).float().mean() < 1e-3


def test_decord_refuses_where_it_would_give_other_frames(tmp_path):
    pytest.importorskip("decord")
    with pytest.raises(UnreadableVideoError, match=r"decoder='decord'.*Use decoder='pyav'"):
        read_video(write_video(tmp_path / "a.ts"), decoder="decord")
    whole = write_video(tmp_path / "a.mp4", faststart=True, noise=True)
    with pytest.raises(UnreadableVideoError, match="decoder='pyav'"):
        read_video(cut_off(whole, tmp_path / "cut.mp4"), decoder="decord")


@pytest.mark.parametrize(("name", "said"), [("cut.mp4", IN_FRAMES), ("cut.mkv", r"\d\.\d of 2\.5 s")])
def test_a_truncated_file_keeps_what_decodes(tmp_path, name, said):
    whole = write_video(tmp_path / f"whole.{name}", faststart=True, gop=5, noise=True)
    path = cut_off(whole, tmp_path / name)
    full, part = read_video(whole, Sampling(fps=5), size=None), read_video(path, Sampling(fps=5), size=None)
    assert full.truncated is None
    kept = len(part.frames)
    assert 3 <= kept < len(full.frames)
    assert torch.equal(part.frames, full.frames[:kept])
    assert re.match(rf"truncated: {said} \(\d\d%\) can be read", part.truncated or "")
    assert part.decoded_share == pytest.approx(0.6, abs=0.15)
    with pytest.raises(TruncatedVideoError, match=r"expected a whole video \(strict\).*truncated: "):
        read_video(path, strict=True)
    assert len(read_video(whole, strict=True).frames) == 3


def test_sound_that_outlasts_the_pictures_is_no_loss():
    for name in ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4"):
        assert read_video(demo_clip(name), Sampling(frames=2), strict=True).truncated is None


def test_damage_in_the_middle_is_stepped_over(tmp_path):
    data = bytearray(write_video(tmp_path / "a.mp4", 50, faststart=True, gop=5, noise=True).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    (tmp_path / "b.mp4").write_bytes(data)
    video = read_video(tmp_path / "b.mp4", Sampling(fps=10), size=None)
    assert len(video.frames) >= 40


def test_an_image_is_a_video_of_one_frame(tmp_path):
    from PIL import Image

    Image.fromarray(picture(3)).save(tmp_path / "a.png")
    video = read_video(tmp_path / "a.png", size=None)
    assert np.array_equal(video.frames[0].numpy(), picture(3))
    assert video.timestamps.tolist() == [0.0]


def test_a_phone_held_upright_gives_upright_pictures(tmp_path):
    path = write_video(tmp_path / "plain.mp4")
    plain = read_video(path, size=None)
    try:
        turned_path = write_video(tmp_path / "turned.mp4", rotation=90)
    except AttributeError:
        pytest.skip("this PyAV cannot write a rotation")
    turned = read_video(turned_path, size=None)
    assert turned.source_size == (128, 96)
    assert torch.equal(turned.frames, plain.frames.rot90(1, (1, 2)))


def test_iterating_equals_reading_and_reports_progress(tmp_path):
    path, steps = write_video(tmp_path / "a.mp4"), []
    stream = iter_frames(path, Sampling(fps=5), progress=lambda done, planned: steps.append((done, planned)))
    items = list(stream)
    video = read_video(path, Sampling(fps=5))
    assert torch.equal(torch.stack([frame for _, frame in items]), video.frames)
    assert [time for time, _ in items] == pytest.approx(video.timestamps.tolist())
    assert len(stream) == 13
    assert steps == [(i + 1, 13) for i in range(13)]


@pytest.mark.parametrize(
    ("size", "scaled"),
    [
        (FrameSize(32, 32), (32, 64)),
        (FrameSize(32, 32, fit="stretch"), (32, 32)),
        (FrameSize(28, 28, crop_fraction=0.875), (32, 64)),
        (FrameSize(32, 16, interpolation="bilinear"), (32, 64)),
    ],
)
def test_resizing_is_pillows_to_one_level(size, scaled):
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (90, 180, 3), dtype=np.uint8)
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    theirs = np.asarray(Image.fromarray(image).resize(scaled[::-1], filters[size.interpolation]))
    top, left = round((scaled[0] - size.height) / 2), round((scaled[1] - size.width) / 2)
    theirs = theirs[top : top + size.height, left : left + size.width]
    ours = resize_frames(torch.from_numpy(image)[None], size)[0].numpy()
    assert np.abs(ours.astype(int) - theirs).max() <= 1


_PEAK = """
import resource, sys
import torch
torch.set_num_threads(1)
from dynfocus_video.reader import read_video
from dynfocus_video.resizing import FrameSize
from dynfocus_video.sampling import Sampling
read_video(sys.argv[1], Sampling(frames=4), size=FrameSize(64, 64))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
video = read_video(sys.argv[2], Sampling(fps=1), size=FrameSize(64, 64))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sys.stdout.write(f"{len(video.frames)} {after - before}")
"""


def test_twenty_minutes_hold_only_the_sampled_frames(tmp_path):
    """The 1200 sampled frames take 467 MB at 480 × 270 and 15 MB at 64 × 64."""
    short = write_video(tmp_path / "short.mp4", 10, fps=1, size=(270, 480))
    path = write_video(tmp_path / "long.mp4", 1200, fps=1, size=(270, 480), preset="ultrafast")
    command = [sys.executable, "-c", _PEAK, str(short), str(path)]
    frames, kilobytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert int(frames) == 1200
    assert int(kilobytes) < 100_000
