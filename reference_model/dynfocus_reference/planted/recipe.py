"""Sizes of the study's model, and its processor."""

from __future__ import annotations

from typing import Any

import torch
from transformers import InstructBlipQFormerConfig, LlamaConfig

from dynfocus_reference.config import ReferenceConfig
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.planted.vocabulary import question_tokenizer, word_tokenizer, words
from dynfocus_reference.planted.world import SIDE
from dynfocus_reference.processing import ReferenceProcessor

DIM, WIDTH, QUERIES = 64, 96, 2
CONNECTOR: dict[str, Any] = {
    "num_prototypes": 15,
    "focus_ratio": 0.2,
    "pool_grid": 3,
    "distance_scale": "max",
    "score_hidden": (128,),
    "spatial_prototypes": (4, 2),
    "spatial_neighbors": (4, 2),
    "num_samples": 100,
}
"""K = 3 of L = 15 events; 9 + 4 + 2 = 15 tokens of 36 patches for a cone frame, 2 for a rod frame"""


def planted_config() -> ReferenceConfig:
    """The model of the study: about 0.65 million parameters."""
    tower = {"img_size": SIDE, "patch_size": 8, "embed_dim": DIM, "depth": 3, "num_heads": 4}
    language = LlamaConfig(
        vocab_size=len(words()),
        hidden_size=WIDTH,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        initializer_range=0.1,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    qformer = InstructBlipQFormerConfig(
        vocab_size=len(words()),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        encoder_hidden_size=DIM,
        max_position_embeddings=64,
        initializer_range=0.1,
    )
    return ReferenceConfig(
        vision_name="vit_tiny_patch16_224",
        vision_kwargs=tower,
        image_size=SIDE,
        text_config=language,
        qformer_config=qformer,
        num_queries=QUERIES,
        connector=dict(CONNECTOR),
    )


def planted_model(seed: int) -> ReferenceModel:
    """The model with weights drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ReferenceModel(planted_config())


def planted_processor(config: ReferenceConfig | None = None) -> ReferenceProcessor:
    """Reads the words of this world."""
    return ReferenceProcessor(word_tokenizer(), question_tokenizer(), config or planted_config())
