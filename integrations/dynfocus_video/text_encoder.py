"""Questions to token features in a space that a CLIP vision tower shares."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dynfocus_video.encoders import Encoder
from dynfocus_video.errors import EncoderError


class TextEncoder:
    """A CLIP text tower of transformers with its projection; see `load_text_encoder`.

    Attributes:
        name: the folder or hub name it came from.
        dim: width of the space shared with pictures.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any, *, device: torch.device | str = "cpu") -> None:
        self.name, self.device = name, torch.device(device)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.dim: int = model.config.projection_dim

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> tuple[Float[Tensor, "batch tokens dim"], Bool[Tensor, "batch tokens"]]:
        """Projected features of every token (begin and end marks included) and which tokens are real.

        Texts longer than the tower reads (77 tokens for CLIP) are cut.
        """
        words = self._tokens(texts)
        hidden = self.model(**words).last_hidden_state
        return self.model.text_projection(hidden).float(), words["attention_mask"].bool()

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Float[Tensor, "batch dim"]:
        """One feature per text, CLIP's own: the one to compare with pictures by cosine."""
        features: Tensor = self.model(**self._tokens(texts)).text_embeds.float()
        return features

    def _tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        if isinstance(texts, str) or not texts:
            raise ValueError(f"TextEncoder: expected a list of at least one text, got {texts!r}.")
        longest = self.model.config.max_position_embeddings
        words = self.tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        return {name: words[name].to(self.device) for name in ("input_ids", "attention_mask")}


def load_text_encoder(name_or_dir: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> TextEncoder:
    """Load a CLIP text tower with its tokenizer from a folder or the hub, e.g. "openai/clip-vit-base-patch16".

    Raises:
        EncoderError: transformers is missing, nothing can be loaded from there, or weights are missing in it.
    """
    name = str(name_or_dir)
    try:
        from transformers import AutoTokenizer, CLIPTextModelWithProjection
    except ImportError as error:
        raise EncoderError(
            "load_text_encoder: expected transformers to be installed, got no such module. "
            "Run: pip install 'dynfocus-connector[transformers]'"
        ) from error
    try:
        loaded: Any = CLIPTextModelWithProjection.from_pretrained(name, output_loading_info=True)
        model, report = loaded
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # hub, network and configuration errors share no base class
        reason = (str(error).strip().splitlines() or ["no message"])[0][:200].rstrip(".")
        raise EncoderError(
            f"load_text_encoder: expected a CLIP text model with tokenizer, got {name!r} "
            f"({type(error).__name__}: {reason}). "
            "Name a folder written by save_pretrained, or a hub name when there is a network."
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise EncoderError(
            f"load_text_encoder: expected every weight of a CLIP text model, got {name!r} without {len(missing)}: "
            f"{', '.join(missing[:4])}. Name a CLIP model with projection."
        )
    return TextEncoder(name, model, tokenizer, device=device)


def require_joint_space(encoder: Encoder, text: TextEncoder) -> None:
    """Refuse a vision and a text tower that cannot be compared.

    Raises:
        EncoderError: the frames' features are not projected, or the widths differ.
    """
    if not encoder.joint_space:
        raise EncoderError(
            f"load_text_encoder: expected frame features in a space shared with text, got encoder "
            f"{encoder.name!r} without. Load a timm CLIP tower with project=True."
        )
    if encoder.dim != text.dim:
        raise EncoderError(
            f"load_text_encoder: expected a text model of width {encoder.dim} (that of {encoder.name!r}), got "
            f"{text.dim} from {text.name!r}. Take both towers from the same CLIP model."
        )
