"""Which parameters of a host and its connector train."""

from __future__ import annotations

from typing import Any

from dynfocus_transformers.attach import Attached


def set_trainable(model: Any, *, language_model: bool = False) -> list[str]:
    """Freeze the host and train the connector (stage 1); with the flag the language model as well (stage 2).

    The host's vision encoder and projector stay frozen in both. Call it after `attach`, before the optimiser is made.

    **Source**: C.1, Table 7 (last row) for the two stages. **Deviations**: there stage 1 trains the projector of the
    connector alone.

    Args:
        model: An attached host, or the composite of host and connector.
        language_model: Train the language model too, with its embeddings and its head.

    Returns:
        The names of the parameters that train.

    Raises:
        ValueError: nothing is attached; nothing would train.
    """
    host = model if isinstance(model, Attached) else getattr(model, "host", None)
    if not isinstance(host, Attached):
        raise ValueError(
            f"set_trainable: expected a model with a connector, got a plain {type(model).__name__}. Attach one first."
        )
    parts: list[Any] = [host.dynfocus]
    if language_model:
        parts += [host.get_decoder(), host.get_output_embeddings()]  # type: ignore[attr-defined]
    chosen = {id(parameter) for part in parts for parameter in part.parameters()}
    if not chosen:
        raise ValueError(
            f"set_trainable: expected a connector with parameters, got a {type(host.dynfocus).__name__} without. "
            "Attach build_connector(DynFocusConfig(...)), or train the language model."
        )
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
