"""A small stand-in for LLaMA-VID: the same methods, arguments and order of calls, written from what they do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from tests.integration.llava.common import CACHE, IGNORE, PLACEHOLDER, VISION, Piece, Tower, joined


class Words:
    """What a tokenizer returns."""

    def __init__(self, input_ids: Tensor, attention_mask: Tensor) -> None:
        self.input_ids, self.attention_mask = input_ids, attention_mask


def letters(prompts: list[str]) -> Words:
    """One token per letter, padded at the end."""
    rows = [torch.tensor([ord(letter) % 97 + 1 for letter in prompt], device="cpu") for prompt in prompts]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return Words(ids, ids > 0)


class QFormer(nn.Module):
    """Queries that look at a frame and at the words."""

    def __init__(self, hidden: int = 16, queries: int = 3) -> None:
        super().__init__()
        self.words = nn.Embedding(100, hidden)
        self.query = nn.Parameter(torch.randn(1, queries, hidden))
        self.key = nn.Linear(VISION, hidden)

    def forward(self, ids: Tensor, mask: Tensor, frames: Tensor) -> Tensor:
        text = (self.words(ids) * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
        query, key = self.query + text, self.key(frames)
        return query + (query @ key.transpose(-1, -2)).softmax(-1) @ key


class VidModel(LlamaModel):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.vision_tower = Tower(class_token=True)
        self.mm_projector = nn.Linear(VISION, config.hidden_size)
        self.vlm_att_encoder = QFormer()
        self.vlm_att_projector = nn.Linear(16, VISION)
        self.vlm_att_key_projector = nn.Linear(VISION, VISION)
        self.vlm_att_val_projector = nn.Linear(VISION, config.hidden_size)

    def get_vision_tower(self) -> Tower:
        return self.vision_tower


class VidForCausalLM:
    """The multimodal half of a LLaMA-VID model."""

    def encode_images(self, images: Tensor, prompts: Any = None, image_counts: Any = None, long_video: bool = False):
        features = images if long_video else self.get_model().get_vision_tower()(images)
        return self.vlm_attention(features, prompts=prompts, image_counts=image_counts, long_video=long_video)

    def vlm_attention(
        self, image_features: Tensor, prompts: Any = None, image_counts: Any = None, long_video: bool = False
    ) -> list[Tensor]:
        counts = [1] * len(prompts) if image_counts is None else image_counts
        assert len(counts) == len(prompts)
        output = []
        for frames, questions in zip(image_features.split(list(counts)), prompts, strict=True):
            words, count, asked = letters(questions), len(frames), len(questions)
            repeated = frames[None].expand(asked, -1, -1, -1).flatten(0, 1)
            ids, mask = (one[:, None].expand(-1, count, -1).flatten(0, 1) for one in words.__dict__.values())
            states = self.get_model().vlm_att_encoder(ids, mask, repeated)
            if self.config.mm_vision_select_feature == "patch" and repeated.shape[1] % 2:
                repeated = repeated[:, 1:]
            text = self.get_model().vlm_att_projector(states)
            tokens = self.token_generation(text, repeated, long_video=long_video)
            if image_counts is not None:
                tokens = tokens.reshape(asked, count, *tokens.shape[-2:]).flatten(1, 2)
            output.append(tokens)
        return output

    def token_generation(self, text_q: Tensor, vis_embed: Tensor, long_video: bool = False) -> Tensor:
        key = self.get_model().vlm_att_key_projector(vis_embed)
        weight = (text_q @ key.transpose(-1, -2) / vis_embed.shape[-1] ** 0.5).softmax(-1)
        context = self.get_model().vlm_att_val_projector((weight @ vis_embed).mean(1)[:, None])
        if self.config.compress_type == "mean":
            vis_embed = vis_embed.mean(1, keepdim=True)
        return torch.cat([context, self.get_model().mm_projector(vis_embed)], 1)

    def prepare_inputs_labels_for_multimodal(
        self,
        input_ids: Tensor,
        attention_mask: Any,
        past_key_values: Any,
        labels: Tensor | None,
        images: Any,
        prompts: Any = None,
    ) -> tuple[Any, ...]:
        if images is None or input_ids.shape[1] == 1:
            return input_ids, attention_mask, past_key_values, None, labels
        long_video = images[0].shape[-1] > 1000
        if isinstance(images, list):
            images = [image if long_video or image.ndim == 4 else image[None] for image in images]
            counts = [len(image) for image in images]
            visual = self.encode_images(torch.cat(images), prompts, counts, long_video=long_video)
        else:
            visual = self.encode_images(images, prompts, long_video=long_video)
        known = torch.full_like(input_ids, IGNORE) if labels is None else labels
        rows = [self.spliced(*row) for row in zip(input_ids, known, visual, strict=True)]
        embeds, new_labels, _ = joined(rows, None, False)
        return None, None, past_key_values, embeds, None if labels is None else new_labels.long()

    def spliced(self, ids: Tensor, labels: Tensor, visual: Any) -> list[Piece]:
        """The n-th placeholder of a sample takes the tokens of its n-th prompt."""
        embed, pieces, start = self.get_model().embed_tokens, [], 0
        for number, place in enumerate((ids == PLACEHOLDER).nonzero()[:, 0].tolist()):
            rows = visual[number]
            pieces.append(Piece(embed(ids[start:place]), labels[start:place]))
            pieces.append(Piece(rows, labels.new_full((len(rows),), IGNORE)))
            start = place + 1
        if not pieces:
            pieces.append(Piece(visual[0][0:0], labels[0:0]))
        return [*pieces, Piece(embed(ids[start:]), labels[start:])]


class LlamaVid(LlamaForCausalLM, VidForCausalLM):
    def __init__(self, config: LlamaConfig) -> None:
        LlamaForCausalLM.__init__(self, config)
        self.model = VidModel(config)
        self.post_init()

    def get_model(self) -> VidModel:
        return self.model

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        images: Any = None,
        prompts: Any = None,
        **options: Any,
    ) -> Any:
        past_key_values = options.pop(CACHE, None)
        if inputs_embeds is None:
            (input_ids, attention_mask, past_key_values, inputs_embeds, labels) = (
                self.prepare_inputs_labels_for_multimodal(
                    input_ids, attention_mask, past_key_values, labels, images, prompts
                )
            )
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            labels=labels,
            **{CACHE: past_key_values},
            **options,
        )
