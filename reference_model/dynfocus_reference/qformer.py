"""The text side: InstructBLIP's Q-Former, asked once per frame."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel


class QuestionFormer(nn.Module):
    """Q: a few query tokens that have read the question and looked at the frame.

    **Source**: Sec. 4.1 (InstructBLIP's Q-Former). **Deviations**: dropout is off while it is frozen; the authors leave
    it on.

    Args:
        config: Sizes of the Q-Former; its `encoder_hidden_size` is replaced by `dim`.
        dim: Width of the vision tokens.
        num_queries: M, query tokens per frame.
    """

    def __init__(self, config: InstructBlipQFormerConfig, dim: int, num_queries: int = 32) -> None:
        super().__init__()
        config.encoder_hidden_size = dim
        self.norm = nn.LayerNorm(dim)
        self.query_tokens = nn.Parameter(torch.zeros(1, num_queries, config.hidden_size))
        nn.init.normal_(self.query_tokens, std=config.initializer_range)
        self.bert = InstructBlipQFormerModel(config)

    def forward(
        self,
        tokens: Float[Tensor, "frames all dim"],
        question: Int[Tensor, "frames length"],
        mask: Bool[Tensor, "frames length"],
    ) -> Float[Tensor, "frames queries hidden"]:
        """Ask every frame its question.

        Args:
            tokens: All tokens of the tower, class token included, before any norm.
            question: Token ids of the Q-Former's own tokenizer, one row per frame.
            mask: Which of them are real.
        """
        count = self.query_tokens.shape[1]
        real = torch.cat([mask.new_ones(len(mask), count), mask], dim=1)
        output = self.bert(
            input_ids=question,
            attention_mask=real.long(),
            query_embeds=self.query_tokens.expand(len(tokens), -1, -1),
            encoder_hidden_states=self.norm(tokens),
        )
        return output.last_hidden_state[:, :count]
