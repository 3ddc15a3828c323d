"""What `--model_args` may say."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dynfocus_video.sampling import Sampling

DecodeErrors = Literal["stop", "unanswered"]
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ModelArguments:
    """The arguments of `--model dynfocus`.

    Args:
        pretrained: A folder, a hub id, or "planted", the small model of the controlled study.
        host: Who builds the model: "reference", "transformers", or "module:callable" (see `engine.Engine`). Without it
            the folder's config.json decides.
        connector: A folder or hub id of a connector, "training-free", or "none": the same host with every video token.
            Without it the reference model's own, and "training-free" for a host of transformers.
        max_tokens: The most tokens per video; without it the connector's own numbers of events and focus frames.
        fps: Pictures per second; 1 where neither `fps` nor `frames` is given.
        frames: That many pictures, evenly; together with `fps` the most that are taken.
        scorer: What ranks the events of a training-free connector; a trained one has its own.
        dtype: Of weights and activations.
        attn: The attention implementation of transformers.
        decode_errors: What a video that cannot be read does: "stop" the run, or count as "unanswered".
        weights: The fingerprint that the weights must have. It becomes part of lmms-eval's cache key, which knows
            arguments and no weights.

    Example:
        >>> ModelArguments.parse(pretrained="planted", frames=16).sampling()
        Sampling(fps=None, frames=16, rule='index')
    """

    pretrained: str
    host: str | None = None
    connector: str | None = None
    max_tokens: int | None = None
    fps: float | None = None
    frames: int | None = None
    scorer: str | None = None
    dtype: str = "float32"
    attn: str | None = None
    decode_errors: DecodeErrors = "stop"
    weights: str | None = None

    @classmethod
    def parse(cls, **given: Any) -> ModelArguments:
        """The arguments, checked.

        Raises:
            ValueError: unknown arguments, no model, or a value that makes no sense.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(given) - set(known))
        if unknown or "pretrained" not in given:
            got = f"{', '.join(unknown)}" if unknown else "no pretrained"
            raise ValueError(f"model_args: expected pretrained and any of {', '.join(known[1:])}, got {got}.")
        # The command line turns digits into numbers, and a fingerprint may be all digits.
        words = {
            name: str(given[name]) for name in ("pretrained", "connector", "weights") if given.get(name) is not None
        }
        return cls(**{**given, **words}).checked()

    def checked(self) -> ModelArguments:
        """Itself, or a ValueError that names the argument that makes no sense."""
        if self.dtype not in DTYPES:
            raise ValueError(f"model_args: expected dtype among {', '.join(DTYPES)}, got {self.dtype!r}.")
        if self.decode_errors not in get_args(DecodeErrors):
            raise ValueError(
                f"model_args: expected decode_errors among {', '.join(get_args(DecodeErrors))}, "
                f"got {self.decode_errors!r}."
            )
        for name in ("max_tokens", "frames"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"model_args: expected {name} to be a whole number >= 1, got {value!r}.")
        if self.host not in (None, "reference", "transformers") and ":" not in str(self.host):
            raise ValueError(
                f"model_args: expected host 'reference', 'transformers' or 'module:callable', got {self.host!r}."
            )
        self.sampling().checked()
        return self

    def sampling(self) -> Sampling:
        """Which frames of a video are read, by the paper's index rule; `frames` caps it where both are given."""
        if self.fps is None and self.frames is not None:
            return Sampling(frames=self.frames, rule="index")
        return Sampling(fps=1.0 if self.fps is None else float(self.fps), rule="index")
