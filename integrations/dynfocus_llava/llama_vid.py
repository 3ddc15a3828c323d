"""LLaMA-VID: videos are compressed instead of becoming two tokens per frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from dynfocus_llava.settings import Widths, has_projector
from dynfocus_llava.slot import ConnectorSlot


class Asked(NamedTuple):
    """One sample: the same pictures or frames, once per prompt."""

    text: Float[Tensor, "prompts_frames queries dim"]
    """the question as the host's text encoder sees each frame"""
    frames: Float[Tensor, "prompts_frames patches dim"]
    """patch features without class token"""


class LlamaVidMixin(ConnectorSlot):
    """A connector in LLaMA-VID; stands before a host class: `class Mine(LlamaVidMixin, LlavaLlamaAttForCausalLM)`.

    The connector sees the encoder's features (dim = mm_hidden_size) and, as the question, what the host's text encoder
    makes of each frame (dim_text = mm_hidden_size). Its tokens go through the host's `mm_projector`, unless it has a
    projector of its own. A sample with one frame is a picture, and stays the host's.

    **Source**: the seams `vlm_attention` and `token_generation` of `LLaMAVIDMetaForCausalLM`.
    """

    seam = "vlm_attention"
    _counts: Sequence[int] = ()
    """frames of the samples of this call"""
    _seen: list[Asked]

    def dynfocus_widths(self) -> Widths:
        """The encoder's width, and the language model's."""
        width = int(self.config.mm_hidden_size)
        return Widths(width, width, int(self.config.hidden_size))

    def vlm_attention(
        self, image_features: Tensor, prompts: Any = None, image_counts: Any = None, long_video: bool = False
    ) -> list[Any]:
        """The host's; for videos a list of [tokens, dim], one per prompt.

        Raises:
            NotImplementedError: `long_video`, where the prompt holds one placeholder per token.
        """
        host: Any = super()
        counts = [] if image_counts is None else [int(count) for count in image_counts]
        options = {"prompts": prompts, "image_counts": image_counts, "long_video": long_video}
        if self.dynfocus_connector is None:
            return host.vlm_attention(image_features, **options)
        if long_video:
            raise NotImplementedError(
                f"LlamaVidMixin: expected frames, got a long video of {sum(counts)} precomputed ones. Its prompt holds "
                f"one placeholder per token of the host's; pass pixels."
            )
        self.dynfocus_report = []
        self._counts, self._seen = counts, []
        try:
            output = list(host.vlm_attention(image_features, **options))
            for sample, count in enumerate(counts):
                if count > 1:
                    output[sample] = self._compress_sample(self._seen[sample], count)
        finally:
            self._counts, self._seen = (), []
        if not any(count > 1 for count in counts):
            output[0] = self.join_idle(output[0])
        return output

    def token_generation(self, text_q: Tensor, vis_embed: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The host's for pictures; of videos the inputs are kept, and what is returned is thrown away."""
        if self._counts:
            self._seen.append(Asked(text_q, vis_embed))
            if self._counts[len(self._seen) - 1] > 1:
                return vis_embed[:, :1]
        host: Any = super()
        return host.token_generation(text_q, vis_embed, *args, **kwargs)

    def _compress_sample(self, asked: Asked, count: int) -> list[Float[Tensor, "tokens dim_out"]]:
        text, frames = (values.unflatten(0, (-1, count)) for values in asked)
        return [self._project(video.tokens) for video in self.compress_videos(frames, text)]

    def _project(self, tokens: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens dim_out"]:
        connector = self.dynfocus_connector
        assert connector is not None
        if not has_projector(connector) and tokens.shape[-1] == self.dynfocus_widths().features:
            tokens = self.get_model().mm_projector(tokens)
        return self.check_tokens(tokens)
