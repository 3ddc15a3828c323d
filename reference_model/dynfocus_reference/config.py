"""The sizes of every part of the reference model, and the presets."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, InstructBlipQFormerConfig, LlamaConfig, PretrainedConfig
from transformers.configuration_utils import SubConfigSpec

from dynfocus_connector import DynFocusConfig

IGNORED_LABEL = -100
PLACEHOLDER_ID = -200
FOLLOWING_SIZES = ("dim", "dim_out", "dim_text")
PRESETS = ("paper-7b", "small", "tiny")


class ReferenceConfig(PretrainedConfig):
    """Vision tower, Q-Former, connector and language model, described by values that JSON can hold.

    The widths of the connector and of the Q-Former's input are no fields: they follow from the tower and the language
    model (`connector_config`, `ReferenceModel`).

    **Source**: Sec. 4.1 (parts), C.1 (sizes); the published weights are listed in docs/guides/training.md.

    Args:
        vision_name: A timm model, with or without a tag; weights are never downloaded here.
        vision_kwargs: What `timm.create_model` takes beside the name (image size, depth, width).
        vision_block: The block whose output is V, counted as Python counts; -2 is the last but one.
        image_size, image_mean, image_std: Shortest edge and centre crop, then (pixel / 255 - mean) / std.
        qformer_config, num_queries: The Q-Former and its number of query tokens.
        connector: Fields of `DynFocusConfig` other than dim, dim_out and dim_text.
        text_config: Any causal language model of transformers.
        placeholder_id: What stands in `input_ids` for one visual input.

    Example:
        >>> preset("paper-7b").text_config.hidden_size
        4096
    """

    model_type = "dynfocus_reference"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "qformer_config": InstructBlipQFormerConfig,
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_name: str = "eva_giant_patch14_clip_224"
    vision_kwargs: Any = None
    vision_block: int = -2
    image_size: int = 224
    image_mean: tuple | list = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple | list = (0.26862954, 0.26130258, 0.27577711)
    qformer_config: Any = None
    num_queries: int = 32
    connector: dict | None = None
    text_config: Any = None
    placeholder_id: int = PLACEHOLDER_ID

    def __post_init__(self, **kwargs: Any) -> None:
        if self.qformer_config is None:
            self.qformer_config = {"vocab_size": 30523}
        self.vision_kwargs = dict(self.vision_kwargs or {})
        self.connector = dict(self.connector or {})
        refused = sorted(set(self.connector) & set(FOLLOWING_SIZES))
        if refused:
            raise ValueError(
                f"ReferenceConfig: expected connector without {', '.join(FOLLOWING_SIZES)}, got {refused}. "
                f"They follow from the vision tower, the language model and the Q-Former."
            )
        super().__post_init__(**kwargs)
        self.connector_config(dim=1)

    def connector_config(self, dim: int) -> DynFocusConfig:
        """The connector's configuration for a tower of width `dim`."""
        return DynFocusConfig.from_dict(
            {
                **(self.connector or {}),
                "dim": dim,
                "dim_out": self.text_config.hidden_size,
                "dim_text": self.qformer_config.hidden_size,
            }
        )


def preset(name: str, **changes: Any) -> ReferenceConfig:
    """A configuration by name: "paper-7b", "small" (about 150 M parameters) or "tiny" (1.3 M).

    Args:
        name: One of `PRESETS`.
        changes: Fields of `ReferenceConfig` to replace.

    Raises:
        ValueError: an unknown name, or fields that do not exist.
    """
    if name not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {name!r}.")
    values = {"paper-7b": _paper, "small": _small, "tiny": _tiny}[name]()
    known = set(ReferenceConfig.__dataclass_fields__)
    unknown = sorted(set(changes) - known)
    if unknown:
        raise ValueError(f"preset: expected fields of ReferenceConfig, got {unknown}.")
    return ReferenceConfig(**{**values, **changes})


def _paper() -> dict[str, Any]:
    vicuna = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )
    return {"text_config": vicuna, "qformer_config": InstructBlipQFormerConfig(vocab_size=30523)}


def _sized(
    tower: tuple[str, int, int, int],
    patches: tuple[int, int],
    text: tuple[int, int, int],
    queries: tuple[int, int, int],
) -> dict[str, Any]:
    """Parts from (name, width, depth, heads), (image, patch), (width, depth, heads) and (width, depth, number)."""
    name, width, depth, heads = tower
    image, patch = patches
    dim, layers, text_heads = text
    language = LlamaConfig(
        vocab_size=320,
        hidden_size=dim,
        intermediate_size=dim * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=text_heads,
        num_key_value_heads=text_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    qformer = InstructBlipQFormerConfig(
        vocab_size=320,
        hidden_size=queries[0],
        num_hidden_layers=queries[1],
        num_attention_heads=max(2, queries[0] // 64),
        intermediate_size=4 * queries[0],
        encoder_hidden_size=width,
    )
    kwargs = {"img_size": image, "patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads}
    return {
        "vision_name": name,
        "vision_kwargs": kwargs,
        "image_size": image,
        "text_config": language,
        "qformer_config": qformer,
        "num_queries": queries[2],
    }


def _small() -> dict[str, Any]:
    return _sized(("vit_base_patch16_clip_224", 640, 8, 10), (224, 16), (768, 12, 12), (384, 6, 32))


def _tiny() -> dict[str, Any]:
    values = _sized(("vit_tiny_patch16_224", 64, 3, 4), (64, 8), (128, 4, 4), (64, 2, 8))
    return {**values, "connector": {"num_prototypes": 8, "num_samples": 100}}
