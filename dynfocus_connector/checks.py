"""What is looked for at the boundaries, so that no forward has to."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def check_features(frames: Float[Tensor, "*batch frames patches dim"], *, name: str = "check_features") -> None:
    """Refuse NaN and Inf. For the places where features come in: files, adapters, data loading.

    Args:
        frames: Patch features of one video or of a batch.
        name: Who is asking, for the message.

    Raises:
        ValueError: names the first frame that holds NaN or Inf, and how many do.

    Example:
        >>> check_features(torch.zeros(2, 4, 8))
    """
    bad = ~frames.isfinite().flatten(-2).all(-1)
    if bad.any():
        first = tuple(bad.nonzero()[0].tolist())
        where = f"frame {first[-1]}" + (f" of video {first[0]}" if len(first) > 1 else "")
        raise ValueError(
            f"{name}: expected finite features, got NaN or Inf in {int(bad.sum())} of {bad.numel()} frames, "
            f"first in {where}. Look at the encoder's precision and at that frame's pixels."
        )
