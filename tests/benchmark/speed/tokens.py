"""Total visual tokens against the length of the video: the paper's Fig. 4, counted."""

from __future__ import annotations

from dynfocus_connector import DynFocusConfig, build_connector

FRAMES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
PATCHES = 256
PLANS = ((25, 0.8), (10, 0.8), (25, 0.4), (60, 0.8))


def token_curves() -> dict[str, list[int]]:
    """Tokens of a video of each of `FRAMES`."""
    curves = {"all patches": [PATCHES * t for t in FRAMES]}
    curves["Chat-UniVi, at most (112 per frame)"] = [112 * t for t in FRAMES]
    for events, ratio in PLANS:
        connector = build_connector(DynFocusConfig.paper(num_prototypes=events, focus_ratio=ratio), device="meta")
        curves[f"DynFocus, L = {events}, r = {ratio}"] = [connector.num_tokens(t, PATCHES) for t in FRAMES]
    curves["LLaMA-VID (2 per frame)"] = [2 * t for t in FRAMES]
    return curves
