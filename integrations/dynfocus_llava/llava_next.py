"""LLaVA-NeXT: videos are compressed where the host pools them."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dynfocus_llava.newlines import FRAME, close_frames, ragged
from dynfocus_llava.question import end_ids, owners, question_ids, read_prompts
from dynfocus_llava.settings import Settings, Widths
from dynfocus_llava.slot import ConnectorSlot

EMBEDS = 4
"""where `prepare_inputs_labels_for_multimodal` returns the embeddings"""


class LlavaNextMixin(ConnectorSlot):
    """A connector in LLaVA-NeXT; stands before a host class: `class Mine(LlavaNextMixin, LlavaQwenForCausalLM)`.

    The host projects and pools a video to [T, N, D]; the connector takes it from there. All merge types and newline
    positions: with ``"grid"`` and ``"frame"`` every frame that has tokens ends with one newline, except where all
    patches stay, which is the host's own layout. Pictures do not come here.

    **Source**: the seams `prepare_inputs_labels_for_multimodal`, `get_2dPool`, `add_token_per_grid` and
    `add_token_per_frame` of `LlavaMetaForCausalLM`.
    """

    seam = "get_2dPool"
    _questions: list[Float[Tensor, "1 question dim"] | None] | None = None
    """of the videos still to come in this call"""

    def dynfocus_widths(self) -> Widths:
        """The language model's width, three times: the host projects first."""
        return Widths(*[int(self.config.hidden_size)] * 3)

    def prepare_inputs_labels_for_multimodal(self, *args: Any, **kwargs: Any) -> Any:
        """The host's, with the question of every video at hand.

        Raises:
            ValueError: a video without placeholder, videos that never came to `get_2dPool`, videos that leave no room
                for text in `tokenizer_model_max_length` tokens.
        """
        host: Any = super()
        prepare = host.prepare_inputs_labels_for_multimodal
        bound = inspect.signature(prepare).bind(*args, **kwargs)
        bound.apply_defaults()
        call = bound.arguments
        ids, images = call["input_ids"], call["images"]
        if self.dynfocus_connector is None or images is None or ids is None or ids.shape[1] == 1:
            return prepare(*args, **kwargs)
        rows, self._questions = self._ask(call)
        self.dynfocus_report = []
        try:
            result = list(prepare(*args, **kwargs))
            self._check_all_came(len(rows), len(self._questions))
        finally:
            self._questions = None
        self._check_room(rows)
        if not rows and result[EMBEDS] is not None:
            result[EMBEDS] = self.join_idle(result[EMBEDS])
        return tuple(result)

    def get_2dPool(self, image_feature: Tensor, *args: Any, **kwargs: Any) -> Float[Tensor, "some tokens dim"]:
        """The host's pooling, then the connector.

        Raises:
            NotImplementedError: `add_faster_video`, which pools every video twice.
        """
        host: Any = super()
        pooled = host.get_2dPool(image_feature, *args, **kwargs)
        if self.dynfocus_connector is None:
            return pooled
        if getattr(self.config, "add_faster_video", False):
            raise NotImplementedError(
                "LlavaNextMixin: expected config.add_faster_video=False, got True. It interleaves two grids per video."
            )
        if self._questions is not None and not self._questions:
            raise ValueError(
                f"LlavaNextMixin: expected get_2dPool once per video, got a call after all "
                f"{len(self.dynfocus_report or [])}. Say 'video' in modalities for each."
            )
        (video,) = self.compress_videos(pooled[None], self._questions.pop(0) if self._questions else None)
        self.check_tokens(video.tokens)
        return ragged(video, pooled)

    def add_token_per_grid(self, image_feature: Tensor) -> Tensor:
        """The host's; a newline per frame for tokens that fill no grid."""
        if not hasattr(image_feature, FRAME):
            host: Any = super()
            return host.add_token_per_grid(image_feature)
        return close_frames(image_feature, self.get_model().image_newline)[0]

    def add_token_per_frame(self, image_feature: Tensor) -> Tensor:
        """The host's; a newline per frame for tokens that fill no grid."""
        if not hasattr(image_feature, FRAME):
            host: Any = super()
            return host.add_token_per_frame(image_feature)
        return close_frames(image_feature, self.get_model().image_newline)

    def _ask(self, call: dict[str, Any]) -> tuple[list[int], list[Float[Tensor, "1 question dim"] | None]]:
        """For every video of the batch, in the host's order: its prompt and its question."""
        modalities = call.get("modalities") or []
        modalities = [modalities] if isinstance(modalities, str) else modalities
        prompts = read_prompts(call["input_ids"], call.get("attention_mask"), call.get("labels"))
        entries = owners(prompts)
        numbers = [number for number, modality in enumerate(modalities) if modality == "video"]
        found = [entries[number] for number in numbers if number < len(entries) and entries[number][1] >= 0]
        if len(found) < len(numbers):
            raise ValueError(
                f"LlavaNextMixin: expected a placeholder for each of {len(numbers)} videos, got {len(found)} among "
                f"{sum(len(prompt.places) for prompt in prompts)} placeholders. Give modalities one entry per image."
            )
        which = (self.dynfocus_settings or Settings()).question
        ids = [question_ids(prompts[row], place, end_ids(self), which) for row, place in found]
        rows = self.get_model().embed_tokens(torch.cat([call["input_ids"].new_zeros(0), *ids]))  # one call, always
        questions = rows.split([len(one) for one in ids]) if ids else ()
        return [row for row, _ in found], [one[None] if len(one) else None for one in questions]

    def _check_all_came(self, total: int, left: int) -> None:
        if left:
            raise ValueError(
                f"LlavaNextMixin: expected get_2dPool once for each of {total} videos, got {total - left} calls. "
                f"Pass images as a list of [frames, 3, height, width], and pool with a stride above 1."
            )

    def _check_room(self, rows: list[int]) -> None:
        limit = getattr(self.config, "tokenizer_model_max_length", None) or math.inf
        counts = [report.tokens_after for report in self.dynfocus_report or []]
        for row in set(rows):
            own = [count for count, other in zip(counts, rows, strict=True) if other == row]
            if sum(own) >= limit:
                raise ValueError(
                    f"LlavaNextMixin: expected less than tokenizer_model_max_length={limit} tokens for the videos of "
                    f"one prompt, got {own}. The host would cut the question off: lower max_tokens."
                )
