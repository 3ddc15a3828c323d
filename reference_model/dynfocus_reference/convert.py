"""`dynfocus convert-weights`: the published weights of every part as one folder of safetensors."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dynfocus_connector import build_connector
from dynfocus_reference.config import ReferenceConfig, preset
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.processing import ReferenceProcessor
from dynfocus_reference.qformer import QuestionFormer
from dynfocus_reference.training.room import ensure_empty, replace_folder
from dynfocus_reference.vision import VisionTower
from dynfocus_reference.weights import load_language_model, load_qformer, load_vision


def assemble(
    config: ReferenceConfig, vision: str, qformer: str, language_model: str, *, dtype: torch.dtype, seed: int = 0
) -> tuple[ReferenceModel, list[str]]:
    """A model of published parts and a new connector.

    Args:
        config: Sizes of tower, Q-Former and connector; the language model brings its own.
        vision, qformer, language_model: As in `load_vision`, `load_qformer`, `load_language_model`.
        dtype: Of all weights.
        seed: Draws the connector.

    Returns:
        The model, and a line per part about what was loaded.
    """
    language = load_language_model(language_model, dtype)
    config.text_config = language.config
    with torch.device("meta"):
        model = ReferenceModel(config)
    tower = VisionTower(config.vision_name, block=config.vision_block, dtype=dtype, **config.vision_kwargs)
    asking = QuestionFormer(config.qformer_config, tower.dim, config.num_queries)
    reports = [str(load_vision(tower, vision)), str(load_qformer(asking, qformer))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        connector = build_connector(config.connector_config(tower.dim))
    model.vision, model.qformer, model.language_model = tower, asking.to(dtype), language
    model.connector = connector.to(dtype)
    model.generation_config = language.generation_config
    count = len(model.connector.state_dict())
    reports += [f"language model: from {language_model}", f"connector: {count} tensors drawn with seed {seed}"]
    return model.eval(), reports


def qformer_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The Q-Former's tokenizer; a plain BERT gets the [DEC] token that LAVIS added.

    Example:
        >>> qformer_tokenizer("google-bert/bert-base-uncased")  # doctest: +SKIP
    """
    tokenizer = AutoTokenizer.from_pretrained(source, truncation_side="left")
    if tokenizer.bos_token != "[DEC]" and "[CLS]" in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    return tokenizer


def run(arguments: argparse.Namespace) -> int:
    """Read every part, then write the folder, whole or not at all."""
    ensure_empty(arguments.output, "convert-weights")
    config = preset(arguments.preset)
    tokenizer = AutoTokenizer.from_pretrained(arguments.language_model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    processor = ReferenceProcessor(tokenizer, qformer_tokenizer(arguments.qformer_tokenizer), config)
    parts = (arguments.vision, arguments.qformer, arguments.language_model)
    model, reports = assemble(config, *parts, dtype=getattr(torch, arguments.dtype), seed=arguments.seed)
    print("\n".join(reports))

    def write(part: Path) -> None:
        model.save_pretrained(part)
        processor.save_pretrained(part)

    replace_folder(Path(arguments.output), write)
    print(f"written to {arguments.output}")
    return 0
