"""Sizes of the study's model, and its processor."""

from __future__ import annotations

from typing import Any

from transformers import InstructBlipQFormerConfig, LlamaConfig

from dynfocus_reference.config import ReferenceConfig
from dynfocus_reference.planted.vocabulary import word_tokenizer, words
from dynfocus_reference.planted.world import SIDE
from dynfocus_reference.processing import ReferenceProcessor

DIM, WIDTH, QUERIES = 64, 96, 4
CONNECTOR: dict[str, Any] = {
    "num_prototypes": 8,
    "focus_ratio": 0.25,
    "pool_grid": 3,
    "distance_scale": "max",
    "spatial_prototypes": (4, 2),
    "spatial_neighbors": (4, 2),
    "num_samples": 100,
}
"""K = 2 of L = 8 events; 9 + 4 + 2 = 15 tokens of 36 patches for a cone frame, 2 for a rod frame"""


def planted_config(**connector: Any) -> ReferenceConfig:
    """The model of the study: about a million parameters.

    Args:
        connector: Changes to `CONNECTOR`.
    """
    tower = {"img_size": SIDE, "patch_size": 8, "embed_dim": DIM, "depth": 3, "num_heads": 4}
    language = LlamaConfig(
        vocab_size=len(words()),
        hidden_size=WIDTH,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    qformer = InstructBlipQFormerConfig(
        vocab_size=len(words()),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        encoder_hidden_size=DIM,
        max_position_embeddings=64,
    )
    return ReferenceConfig(
        vision_name="vit_tiny_patch16_224",
        vision_kwargs=tower,
        image_size=SIDE,
        text_config=language,
        qformer_config=qformer,
        num_queries=QUERIES,
        connector={**CONNECTOR, **connector},
    )


def planted_processor(config: ReferenceConfig | None = None) -> ReferenceProcessor:
    """Reads the words of this world."""
    return ReferenceProcessor(word_tokenizer(), word_tokenizer(), config or planted_config())
