"""The published weights of each part."""

from __future__ import annotations

import re
from typing import Any

import timm
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from dynfocus_reference.checkpoints import LoadReport, expect_all_loaded, load_exactly, read_tensors
from dynfocus_reference.qformer import QuestionFormer
from dynfocus_reference.vision import VisionTower

TIMM_PREFIX = "timm:"
HEADS = r"(norm|fc_norm|head|attn_pool|head_drop)\."


def load_vision(tower: VisionTower, source: str) -> LoadReport:
    """Fill the tower from a file of timm's or EVA's key names, or from timm's own download.

    Args:
        tower: To fill.
        source: ``eva_vit_g.pth``, a .safetensors file, or ``timm:NAME.TAG``.

    Raises:
        ValueError: missing, extra or mis-shaped weights. Later blocks, final norm and heads may be there.
    """
    if source.startswith(TIMM_PREFIX):
        model = timm.create_model(source.removeprefix(TIMM_PREFIX), pretrained=True, num_classes=0)
        state = model.state_dict()
    else:
        state = _filtered(tower, read_tensors(source, lambda key: key))
    blocks = (int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\.", key)))
    later = sorted({block for block in blocks if block > tower.index})
    tolerate = HEADS + "".join(rf"|blocks\.{block}\." for block in later)
    return load_exactly(tower.model, state, part="vision tower", source=source, tolerate=tolerate)


def _filtered(tower: VisionTower, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's own renaming of foreign key names, chosen by the family of the model."""
    module = __import__(type(tower.model).__module__, fromlist=["checkpoint_filter_fn"])
    return module.checkpoint_filter_fn(dict(state), tower.model)


def qformer_key(key: str) -> str | None:
    """Our name of a Q-Former tensor of LAVIS (``Qformer.bert.…``) or of Hugging Face (``[model.]qformer.…``).

    Example:
        >>> qformer_key("Qformer.bert.encoder.layer.0.attention.self.key.bias")
        'bert.encoder.layer.0.attention.attention.key.bias'
        >>> qformer_key("model.vision_model.post_layernorm.weight"), qformer_key("llm_proj.weight")
        ('norm.weight', None)
    """
    key = key.removeprefix("model.")
    if key == "query_tokens":
        return key
    for prefix in ("ln_vision.", "vision_model.post_layernorm."):
        if key.startswith(prefix):
            return "norm." + key.removeprefix(prefix)
    for prefix in ("Qformer.bert.", "qformer."):
        if key.startswith(prefix) and not key.endswith("position_ids"):
            key = key.removeprefix(prefix).replace("embeddings.LayerNorm", "embeddings.layernorm")
            return "bert." + key.replace("attention.self.", "attention.attention.")
    return None


def load_qformer(qformer: QuestionFormer, source: str) -> LoadReport:
    """Fill the Q-Former from LAVIS (``instruct_blip_vicuna7b_trimmed.pth``) or Hugging Face's InstructBLIP.

    Raises:
        ValueError: missing, extra or mis-shaped weights.
    """
    return load_exactly(qformer, read_tensors(source, qformer_key), part="Q-Former", source=source)


def load_language_model(source: str, dtype: torch.dtype | None = None, **options: Any) -> PreTrainedModel:
    """A causal language model of transformers from a folder or the hub.

    Raises:
        ValueError: weights that do not fit its configuration.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=dtype or torch.float32,
        weights_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    model, info = loaded
    expect_all_loaded(info, "load_language_model", source, tolerate=r".*rotary_emb\.inv_freq")
    return model
