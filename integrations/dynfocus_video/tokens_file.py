"""What tokens.safetensors holds."""

from __future__ import annotations

import json

import torch

from dynfocus_video.compression import Compression


def tensors_of(result: Compression) -> dict[str, torch.Tensor]:
    """The tensors of one video, on the CPU."""
    video, selection = result.video, result.video.selection
    assert selection is not None
    tensors = {
        "tokens": video.tokens,
        "frame_index": video.frame_index,
        "kind": video.kind,
        "anchor": video.anchor,
        "offsets": video.offsets,
        "timestamps": result.timestamps,
        "is_focus": selection.is_focus[0],
        "event": selection.event[0],
        "scores": selection.scores[0],
        "prototype_index": selection.prototype_index[0],
    }
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def metadata_of(result: Compression, title: str) -> dict[str, str]:
    """The configuration and the circumstances, as strings."""
    return {
        "format": "pt",
        "config": json.dumps(result.config.to_dict()),
        "video": title,
        "question": result.question or "",
        "encoder": result.encoder,
        "grid": json.dumps(list(result.grid)),
        "training_free": json.dumps(result.training_free),
    }
