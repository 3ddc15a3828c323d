"""Small pictures of frames: kept as JPEG while a video is read, shrunk once more for the page."""

from __future__ import annotations

import io
from collections.abc import Sequence

from jaxtyping import UInt8
from torch import Tensor

# A page of a long video shows every focus frame, and this many of the others.
MOST_SMALL_PICTURES = 1500


def thumbnail(frame: UInt8[Tensor, "height width 3"], width: int) -> bytes:
    """The frame as a JPEG at most `width` wide."""
    from PIL import Image

    return _jpeg(Image.fromarray(frame.cpu().numpy()), width)


def size_of(picture: bytes) -> tuple[int, int]:
    """Width and height of a JPEG."""
    from PIL import Image

    size: tuple[int, int] = Image.open(io.BytesIO(picture)).size
    return size


def held_width(num_frames: int) -> int:
    """How wide the pictures may be that are kept while reading, so that they fit into some tens of megabytes."""
    return 480 if num_frames <= 400 else 320 if num_frames <= 2000 else 240


def for_page(thumbnails: Sequence[bytes | None], is_focus: Sequence[bool]) -> list[bytes | None]:
    """Focus frames large, the others small; in long videos some of the others go without, evenly."""
    num_focus = sum(is_focus)
    num_small = len(is_focus) - num_focus
    large = 480 if num_focus <= 60 else 320 if num_focus <= 300 else 200
    small = 240 if num_small <= 120 else 160 if num_small <= 500 else 96
    shown = min(num_small, MOST_SMALL_PICTURES)
    pictures: list[bytes | None] = []
    seen = 0
    for picture, focus in zip(thumbnails, is_focus, strict=True):
        seen += not focus
        keep = focus or seen * shown // num_small > (seen - 1) * shown // num_small
        pictures.append(_shrunk(picture, large if focus else small) if picture is not None and keep else None)
    return pictures


def _shrunk(picture: bytes, width: int) -> bytes:
    from PIL import Image

    image = Image.open(io.BytesIO(picture))
    return picture if image.width <= width and image.format == "JPEG" else _jpeg(image.convert("RGB"), width)


def _jpeg(image: object, width: int) -> bytes:
    from PIL import Image

    assert isinstance(image, Image.Image)
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=78, optimize=True)
    return buffer.getvalue()
