"""`dynfocus info`: what is installed, and what the presets cost."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, NamedTuple

PACKAGES = ("dynfocus-connector", "torch", "einops", "safetensors", "av", "decord", "timm", "transformers")
DECODERS = {"pyav": "av", "decord": "decord"}
_PATCHES, _DIM, _DIM_OUT = 256, 1408, 4096


class PresetFacts(NamedTuple):
    """What a preset costs at the paper's sizes: 256 patches of width 1408, tokens of width 4096."""

    events: int
    focus_frames: int
    cone_tokens: int
    rod_tokens: int
    encoder_parameters: int
    """without the projection of the text features (Table 9)"""
    scorer_parameters: int


def add(subparsers: Any) -> None:
    """Register the verb."""
    parser = subparsers.add_parser("info", help="versions, devices, decoders and presets")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what is found."""
    found = collect()
    sys.stdout.write((json.dumps(found) if arguments.json else _as_text(found)) + "\n")
    return 0


def collect() -> dict[str, Any]:
    """Everything `dynfocus info` tells, as plain values."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": _devices(),
        "decoders": {name: find_spec(module) is not None for name, module in DECODERS.items()},
        "presets": {name: preset_facts(name)._asdict() for name in ("paper", "authors_code")},
    }


def preset_facts(name: str) -> PresetFacts:
    """Counts of one preset, from a connector that allocates nothing.

    Example:
        >>> preset_facts("paper").encoder_parameters, preset_facts("paper").scorer_parameters
        (30307712, 12897281)
    """
    from dynfocus_connector import build_connector
    from dynfocus_video.choosing import preset_config

    config = preset_config(name, dim=_DIM, dim_out=_DIM_OUT)
    connector = build_connector(config, device="meta")
    counts = connector.encoder.token_counts(_PATCHES)
    text = sum(parameter.numel() for parameter in connector.encoder.rods.query.parameters())
    least = connector.num_tokens(config.num_prototypes, _PATCHES) - counts.rod * config.num_prototypes
    return PresetFacts(
        events=config.num_prototypes,
        focus_frames=least // (counts.cone - counts.rod),
        cone_tokens=counts.cone,
        rod_tokens=counts.rod,
        encoder_parameters=sum(parameter.numel() for parameter in connector.encoder.parameters()) - text,
        scorer_parameters=sum(parameter.numel() for parameter in connector.estimator.parameters()),
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> list[str]:
    import torch

    devices = [f"cpu ({torch.get_num_threads()} threads)"]
    devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return devices + (["mps"] if torch.backends.mps.is_available() else [])


def _as_text(found: dict[str, Any]) -> str:
    packages = " · ".join(f"{name} {number}" for name, number in found["packages"].items() if number)
    missing = ", ".join(name for name, number in found["packages"].items() if not number)
    decoders = ", ".join(f"{name}{'' if there else ' (not installed)'}" for name, there in found["decoders"].items())
    lines = [
        f"  versions    Python {found['python']} · {packages}",
        *([f"  missing     {missing}"] if missing else []),
        f"  devices     {', '.join(found['devices'])}",
        f"  decoders    {decoders}",
        "",
        f"  {'preset':<14}{'events':>7}{'focus':>7}{'tokens per frame':>20}{'encoder parameters':>20}{'scorer':>12}",
    ]
    for name, facts in found["presets"].items():
        tokens = f"{facts['cone_tokens']} focus, {facts['rod_tokens']} other"
        lines.append(
            f"  {name:<14}{facts['events']:>7}{facts['focus_frames']:>7}{tokens:>20}"
            f"{facts['encoder_parameters']:>20,}{facts['scorer_parameters']:>12,}"
        )
    lines.append(f"  (frames of {_PATCHES} patches, {_DIM} wide; tokens {_DIM_OUT} wide; text projection not counted)")
    return "\n".join(lines)
