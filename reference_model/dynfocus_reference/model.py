"""The reference model: tower → Q-Former → connector → splice → language model."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from dynfocus_connector import CompressedVideo, build_connector
from dynfocus_connector.splicing import SplicedPrompt, splice
from dynfocus_reference.config import IGNORED_LABEL, ReferenceConfig
from dynfocus_reference.qformer import QuestionFormer
from dynfocus_reference.vision import VisionTower
from dynfocus_reference.visuals import Visuals, in_chunks, pad_rows

FRAMES_PER_CHUNK = 64


class ReferenceModel(PreTrainedModel, GenerationMixin):
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
        self.set_trainable([r"qformer\.", r"connector\.", r"language_model\."])
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Constructors draw the weights; only buffers that no checkpoint holds are made here, after a load."""
        remake = getattr(module, "init_non_persistent_buffers", None)
        if remake is not None:
            remake()

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """Load a folder written by `save_pretrained`; missing, extra and mis-shaped weights are errors.

        Raises:
            ValueError: the weights do not fit the configuration.
        """
        model, info = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)
        bad = {
            kind: sorted(map(str, info.get(kind, ())))
            for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        }
        if any(bad.values()):
            told = ", ".join(f"{len(names)} {kind.split('_')[0]} {names[:3]}" for kind, names in bad.items() if names)
            raise ValueError(
                f"ReferenceModel.from_pretrained: expected the weights in {str(path)!r} to fit their config.json, "
                f"got {told}. Write the folder with save_pretrained or `dynfocus convert-weights`."
            )
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

    def set_trainable(self, patterns: Iterable[str]) -> list[str]:
        """Train the parameters whose name begins with one of the regular expressions, freeze all others.

        Returns:
            The names of the parameters that train.

        Raises:
            ValueError: a pattern that fits no parameter, or one that would train the vision tower.
        """
        patterns = list(patterns)
        names = [name for name, _ in self.named_parameters()]
        lost = [pattern for pattern in patterns if not any(re.match(pattern, name) for name in names)]
        if lost:
            raise ValueError(f"ReferenceModel.set_trainable: expected patterns that fit a parameter, got {lost}.")
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(any(re.match(pattern, name) for pattern in patterns))
        if any(parameter.requires_grad for parameter in self.vision.parameters()):
            raise ValueError(f"ReferenceModel.set_trainable: expected a frozen vision tower, got {patterns}.")
        self.train(self.training)
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def restore_rotary(self) -> int:
        """Make rotary frequencies float32 again where a cast of the whole model has rounded them; how many.

        DeepSpeed and `Module.to(dtype)` cast buffers too; in bfloat16 far positions could not be told apart.
        """
        rounded = [
            module
            for module in self.language_model.modules()
            if hasattr(module, "original_inv_freq") and module.inv_freq.dtype != torch.float32
        ]
        for module in rounded:
            for name in ("inv_freq", "original_inv_freq"):
                setattr(module, name, getattr(module, name).float())
            PreTrainedModel._init_weights(self, module)
        return len(rounded)

    def checkpoint_activations(self) -> None:
        """Recompute the language model's activations in the backward instead of keeping them."""
        enable = getattr(self, "activation_checkpointing_enable", None) or self.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        self.train(self.training)

    def train(self, mode: bool = True) -> ReferenceModel:
        """Training mode for the parts that train; frozen parts stay in evaluation mode (no dropout, hard Top-K).

        Layers of a frozen language model keep their own flag, because transformers checkpoints gradients by it.
        """
        super().train(mode)
        parts = (self.vision, self.qformer, self.connector.estimator, self.connector.encoder, self.language_model)
        for part in parts:
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        for module in self.language_model.modules():
            if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
                module.training = mode
        return self

    def see(self, frames: Tensor) -> Float[Tensor, "frames all dim"]:
        """All tokens of the tower, some frames at a time; pictures as bytes are normalised here."""
        return in_chunks(lambda some: self.vision(self.normalize(some)).tokens, self.frames_per_chunk, frames)

    def normalize(self, frames: Tensor) -> Float[Tensor, "frames 3 height width"]:
        """(pixel / 255 − mean) / std for UInt8[frames height width 3]; floating-point frames are normalised already."""
        if frames.dtype != torch.uint8:
            return frames
        mean, std = (torch.tensor(x, device=frames.device) for x in (self.config.image_mean, self.config.image_std))
        return ((frames.float() / 255 - mean) / std).permute(0, 3, 1, 2)

    def ask(
        self,
        tokens: Float[Tensor, "rows all dim"],
        question: Int[Tensor, "rows length"],
        mask: Bool[Tensor, "rows length"],
    ) -> Float[Tensor, "rows queries hidden"]:
        """Q of every (frame, question), some at a time."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.qformer.query_tokens.requires_grad):
            return in_chunks(self.qformer, self.frames_per_chunk, tokens, question, mask)

    def compress(self, visuals: Visuals) -> CompressedVideo:
        """The tokens of every placeholder, in order."""
        tokens = self.see(visuals.frames) if visuals.frames.ndim == 4 else visuals.frames
        tokens = tokens.to(self.dtype)
        frame, placeholder, mask = visuals.rows()
        text = self.ask(tokens[frame], visuals.question_ids[placeholder], visuals.question_mask[placeholder])
        patches = tokens[frame, self.vision.num_tokens - self.vision.num_patches :]
        return self.connector(pad_rows(patches, mask), pad_rows(text, mask), frame_mask=mask)

    def nothing_to_see(self) -> CompressedVideo:
        """A video without tokens that has passed every part: text-only batches stay in step with the others."""
        pixels = torch.zeros(1, 3, self.config.image_size, self.config.image_size, device=self.device)
        question = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        tokens = self.see(pixels).to(self.dtype)
        text = self.ask(tokens, question, torch.ones_like(question, dtype=torch.bool))
        patches = tokens[:, self.vision.num_tokens - self.vision.num_patches :]
        nobody = torch.zeros(1, 1, dtype=torch.bool, device=self.device)
        return self.connector(patches[None], text[None], frame_mask=nobody)

    def embed_prompt(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        video: CompressedVideo | Visuals | None = None,
        padding_side: str = "right",
    ) -> SplicedPrompt:
        """Prompts with videos in the place of their placeholders.

        Raises:
            ValueError: as many placeholders as visual inputs are expected.
        """
        if isinstance(video, Visuals):
            video = self.compress(video)
        if video is None:
            video = self.nothing_to_see() if self.training else self._no_video()
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

    def _no_video(self) -> CompressedVideo:
        none = torch.zeros(0, dtype=torch.long, device=self.device)
        tokens = torch.zeros(0, self.config.text_config.hidden_size, dtype=self.dtype, device=self.device)
        return CompressedVideo.build(tokens, none, none, none, none.new_zeros(1))

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"] | None = None,
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
        shown = video if video is not None else visuals(frames, clip_lengths, clip_index, question_ids, question_mask)
        prompt = self.embed_prompt(input_ids, attention_mask, labels, shown)
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
        frames: Tensor | None = None,
        clip_lengths: Tensor | None = None,
        clip_index: Tensor | None = None,
        question_ids: Tensor | None = None,
        question_mask: Tensor | None = None,
        video: CompressedVideo | None = None,
        generation_config: Any = None,
        **kwargs: Any,
    ) -> Any:
        """New tokens only, one row per prompt; arguments as in `forward`, the rest as in transformers' `generate`.

        Prompts of different length may be padded on either side; a `streamer` meets the new tokens alone.
        """
        shown = video if video is not None else visuals(frames, clip_lengths, clip_index, question_ids, question_mask)
        prompt = self.embed_prompt(input_ids, attention_mask, None, shown, padding_side="left")
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


def visuals(
    frames: Tensor | None,
    clip_lengths: Tensor | None,
    clip_index: Tensor | None,
    question_ids: Tensor | None,
    question_mask: Tensor | None,
) -> Visuals | None:
    """The visual part of a batch, None where it has none.

    Raises:
        ValueError: frames without their lengths and questions.
    """
    if frames is None or len(frames) == 0:
        return None
    if clip_lengths is None or question_ids is None:
        raise ValueError("ReferenceModel: expected clip_lengths and question_ids beside frames, got None.")
    return Visuals.build(frames, clip_lengths, question_ids, question_mask, clip_index)


AutoConfig.register(ReferenceConfig.model_type, ReferenceConfig)
AutoModel.register(ReferenceConfig, ReferenceModel)
AutoModelForCausalLM.register(ReferenceConfig, ReferenceModel)
