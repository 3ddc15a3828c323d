"""The reference model: tower → Q-Former → connector → splice → language model."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from dynfocus_connector import CompressedVideo, build_connector
from dynfocus_connector.splicing import SplicedPrompt, splice
from dynfocus_reference.checkpoints import expect_all_loaded, opening
from dynfocus_reference.config import IGNORED_LABEL, ReferenceConfig
from dynfocus_reference.freezing import FrozenParts
from dynfocus_reference.qformer import QuestionFormer
from dynfocus_reference.vision import VisionTower
from dynfocus_reference.visuals import VISUAL_INPUTS, Visuals, shown
from dynfocus_reference.watching import Watching

FRAMES_PER_CHUNK = 64


class ReferenceModel(FrozenParts, Watching, PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A language model that watches videos through the connector. Images are videos of one frame.

    **Source**: Sec. 3.1 and 4.1. Parts: `vision` (never trains), `qformer`, `connector`, `language_model`.

    Example:
        >>> from dynfocus_reference import preset
        >>> model = ReferenceModel(preset("tiny")).eval()
        >>> model(input_ids=torch.tensor([[1, 5, 6]])).logits.shape
        torch.Size([1, 3, 320])
    """

    config_class = ReferenceConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__(config)
        self.vision = VisionTower(config.vision_name, block=config.vision_block, **config.vision_kwargs)
        self.qformer = QuestionFormer(config.qformer_config, self.vision.dim, config.num_queries)
        self.connector = build_connector(config.connector_config(self.vision.dim))
        self.language_model = AutoModelForCausalLM.from_config(config.text_config, dtype=torch.get_default_dtype())
        self._no_split_modules = self.language_model._no_split_modules
        self.frames_per_chunk = FRAMES_PER_CHUNK
        self.reads_features = False
        self.set_trainable([r"qformer\.", r"connector\.", r"language_model\."])
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Constructors draw the weights; only buffers that no checkpoint holds are made here, after a load."""
        remake = getattr(module, "init_non_persistent_buffers", None)
        if remake is not None:
            remake()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """Load a folder written by `save_pretrained`; missing, extra and mis-shaped weights are errors.

        Raises:
            ValueError: the weights do not fit the configuration.
            FileNotFoundError: no model lies there.
        """
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        with opening(path, "ReferenceModel.from_pretrained"):
            loaded: Any = super().from_pretrained(path, *args, **kwargs)
        model, info = loaded
        expect_all_loaded(info, "ReferenceModel.from_pretrained", path)
        return (model, info) if output_loading_info else model

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """The language model's."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.language_model.get_output_embeddings()

    def embed_prompt(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        video: CompressedVideo | Visuals | None = None,
        padding_side: Literal["left", "right"] = "right",
    ) -> SplicedPrompt:
        """Prompts with videos in the place of their placeholders.

        Raises:
            ValueError: as many placeholders as visual inputs are expected.
        """
        if isinstance(video, Visuals):
            video = self.compress(video)
        if video is None:
            video = self.nothing_to_see() if self.training else self.no_video()
        return splice(
            video,
            input_ids,
            self.get_input_embeddings(),
            placeholder=self.config.placeholder_id,
            labels=labels,
            attention_mask=attention_mask,
            padding_side=padding_side,
            ignore_index=IGNORED_LABEL,
        )

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Tensor | None = None,
        labels: Int[Tensor, "batch length"] | None = None,
        *,
        frames: Tensor | None = None,
        clip_lengths: Tensor | None = None,
        clip_index: Tensor | None = None,
        question_ids: Tensor | None = None,
        question_mask: Tensor | None = None,
        video: CompressedVideo | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and the loss where there are labels.

        Args:
            input_ids: Prompts with one `config.placeholder_id` per visual input, padded on either side.
            attention_mask: Which of them are real.
            labels: Targets in the places of `input_ids`; -100 is ignored.
            frames, clip_lengths, clip_index, question_ids, question_mask: As in `Visuals`; nothing for text alone.
            video: Tokens computed before, instead of `frames`.
            kwargs: For the language model.

        Raises:
            ValueError: as many placeholders as visual inputs are expected.
        """
        seen = shown(video, frames, clip_lengths, clip_index, question_ids, question_mask)
        prompt = self.embed_prompt(input_ids, attention_mask, labels, seen)
        if prompt.labels is not None:
            kwargs["num_items_in_batch"] = count_targets(prompt.labels, kwargs.get("num_items_in_batch"))
        kwargs.setdefault("use_cache", not self.training)
        return self.language_model(
            inputs_embeds=prompt.inputs_embeds,
            attention_mask=prompt.attention_mask.long(),
            position_ids=prompt.position_ids,
            labels=prompt.labels,
            **kwargs,
        )

    @torch.no_grad()
    def generate(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Tensor | None = None,
        *,
        generation_config: Any = None,
        **kwargs: Any,
    ) -> Any:
        """New tokens only, one row per prompt; arguments as in `forward`, the rest as in transformers' `generate`.

        Prompts of different length may be padded on either side; a `streamer` meets the new tokens alone.
        """
        seen = shown(**{name: kwargs.pop(name) for name in VISUAL_INPUTS if name in kwargs})
        prompt = self.embed_prompt(input_ids, attention_mask, None, seen, padding_side="left")
        settings = copy.deepcopy(generation_config or self.generation_config)
        others = settings.update(**kwargs)
        return self.language_model.generate(
            inputs_embeds=prompt.inputs_embeds,
            attention_mask=prompt.attention_mask.long(),
            generation_config=settings,
            **others,
        )


def count_targets(labels: Int[Tensor, "batch length"], wanted: Tensor | int | None) -> Tensor:
    """What the summed loss is divided by; never 0, so that a batch without targets has a loss of 0 and not NaN."""
    if wanted is None:
        return (labels[:, 1:] != IGNORED_LABEL).sum().clamp(min=1)
    return torch.as_tensor(wanted, device=labels.device).clamp(min=1)


AutoConfig.register(ReferenceConfig.model_type, ReferenceConfig)
AutoModel.register(ReferenceConfig, ReferenceModel)
AutoModelForCausalLM.register(ReferenceConfig, ReferenceModel)
