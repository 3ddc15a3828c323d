"""What made a set of stored features: they are good for the same tower, pictures and frames alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch

from dynfocus_reference.config import ReferenceConfig
from dynfocus_reference.vision import VisionTower

if TYPE_CHECKING:
    from dynfocus_reference.data.dataset import ConversationDataset
    from dynfocus_reference.data.options import DataOptions
    from dynfocus_reference.model import ReferenceModel


def fingerprint(vision: VisionTower, config: ReferenceConfig, options: DataOptions) -> dict[str, Any]:
    """What tokens depend on: the tower and its weights, the pictures' format, which frames are taken."""
    return {
        "tower": config.vision_name,
        "block": vision.index,
        "weights": weights_hash(vision),
        "tokens": [vision.num_tokens, vision.dim],
        "image_size": config.image_size,
        "image_mean": list(config.image_mean),
        "image_std": list(config.image_std),
        "square_images": options.square_images,
        "fps": options.fps,
        "max_frames": options.max_frames,
    }


def weights_hash(vision: VisionTower) -> str:
    """SHA-256 of names, shapes and values; values as bfloat16, so that it does not depend on the dtype of loading."""
    digest = hashlib.sha256()
    for name, value in sorted(vision.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def agree(model: ReferenceModel, data: ConversationDataset) -> None:
    """Make sure that stored tokens are this model's, and tell it to expect them; nothing where pixels are read.

    Raises:
        ValueError: they come from another tower, or from other frames.
    """
    if data.features is not None:
        data.features.expect(fingerprint(model.vision, model.config, data.options))
        model.reads_features = True
