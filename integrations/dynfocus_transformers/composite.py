"""Host and connector as one model, in one checkpoint."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)

from dynfocus_connector import DynFocusConfig, build_connector
from dynfocus_transformers.attach import Attached, attach
from dynfocus_transformers.report import VideoReport


class DynFocusModelConfig(PreTrainedConfig):
    """The host's configuration, the connector's, and the settings of `attach`.

    Args:
        host_config: Of the host, as an object or as values with a `model_type`; copied, never shared.
        connector_config: Values of a `DynFocusConfig`; None for the training-free one of the host's width.
        settings: Of `attach`: max_tokens, ratio, question, ...
    """

    model_type = "dynfocus"
    sub_configs = {"host_config": AutoConfig}  # noqa: RUF012

    def __init__(
        self,
        host_config: PreTrainedConfig | dict[str, Any] | None = None,
        connector_config: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        host_config = copy.deepcopy(host_config)
        if isinstance(host_config, dict):
            host_config = CONFIG_MAPPING[host_config["model_type"]](**host_config)
        self.host_config = host_config
        if connector_config is None and host_config is not None:
            width = int(host_config.get_text_config().hidden_size)
            connector_config = DynFocusConfig.training_free(dim=width).to_dict()
        self.connector_config = connector_config
        self.settings = dict(settings or {})
        super().__init__(**kwargs)

    def get_text_config(self, *args: Any, **kwargs: Any) -> PreTrainedConfig:
        """The host's."""
        return self if self.host_config is None else self.host_config.get_text_config(*args, **kwargs)


class DynFocusForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A host with its connector: `model.host` is the attached host, `model.host.dynfocus` the connector.

    Build one from parts with `from_parts`, or from a checkpoint with `from_pretrained` (also of
    `AutoModelForImageTextToText`).
    """

    config_class = DynFocusModelConfig
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(
        self, config: DynFocusModelConfig, host: PreTrainedModel | None = None, connector: nn.Module | None = None
    ) -> None:
        super().__init__(config)
        self.host: Any = host
        if host is None:
            self.host = AutoModelForImageTextToText.from_config(copy.deepcopy(config.host_config))
        if not isinstance(self.host, Attached):
            if connector is None:
                dtype = self.host.get_input_embeddings().weight.dtype
                connector = build_connector(DynFocusConfig.from_dict(dict(config.connector_config or {})), dtype=dtype)
            attach(self.host, connector, **config.settings)
        if not any(parameter.is_meta for parameter in self.host.parameters()):
            for module in self.host.dynfocus.modules():  # transformers leaves their weights alone
                module._is_hf_initialized = True
        self.post_init()

    @classmethod
    def from_parts(
        cls, host: PreTrainedModel, connector: nn.Module | None = None, **settings: Any
    ) -> DynFocusForConditionalGeneration:
        """Join a host and a `DynFocusConnector`, without copying weights; settings as in `attach`.

        Raises:
            TypeError: a connector without a `DynFocusConfig`, which no checkpoint could describe.
        """
        given = None if connector is None else getattr(connector, "config", None)
        if connector is not None and not isinstance(given, DynFocusConfig):
            raise TypeError(
                f"DynFocusForConditionalGeneration: expected a DynFocusConnector, got {type(connector).__name__}."
            )
        values = None if given is None else given.to_dict()
        return cls(DynFocusModelConfig(host.config, values, settings), host, connector)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        second_per_grid_ts: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        image_merge_sizes: torch.Tensor | None = None,
        video_merge_sizes: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The attached host's; every host takes some of these."""
        named = {key: value for key, value in locals().items() if key not in ("self", "kwargs", "__class__")}
        return self.host(**{key: value for key, value in named.items() if value is not None}, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The attached host's."""
        return self.host.generate(*args, **kwargs)

    @property
    def dynfocus_report(self) -> list[VideoReport]:
        """What happened to every video of the last call."""
        return self.host.dynfocus_report

    @property
    def generation_config(self) -> Any:
        """The host's."""
        return self.host.generation_config if "host" in self._modules else None

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        if "host" in self._modules:
            self.host.generation_config = value

    def get_input_embeddings(self) -> nn.Module:
        return self.host.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.host.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.host.get_output_embeddings()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: host and connector bring their own."""


AutoConfig.register("dynfocus", DynFocusModelConfig, exist_ok=True)
AutoModelForImageTextToText.register(DynFocusModelConfig, DynFocusForConditionalGeneration, exist_ok=True)
