"""The connector: DPE, then CCE. Features in, tokens out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from dynfocus_connector.budget import BudgetPlan, TokenBudget, evenly
from dynfocus_connector.config import DynFocusConfig
from dynfocus_connector.contracts import CompressedVideo, FrameSelection
from dynfocus_connector.encoder import CompactCooperativeEncoder
from dynfocus_connector.estimator import DynamicPrototypeEstimator, num_focus_frames
from dynfocus_connector.pooling import Grid
from dynfocus_connector.saving import CONFIG_NAME, WEIGHTS_NAME, find_file, load_exactly, write_folder


class DynFocusConnector(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="dynfocus-connector",
    tags=["video", "token-compression"],
    repo_url="https://arxiv.org/abs/2411.12355",
):
    """Which frames matter (DPE), then tokens for all of them (CCE).

    **Source**: Sec. 3, Fig. 2. Build one with `build_connector`.

    Example:
        >>> connector = build_connector(DynFocusConfig.training_free(dim=8)).eval()
        >>> video = connector(torch.randn(1, 100, 256, 8))
        >>> video.tokens.shape, int(video.selection.is_focus.sum())
        (torch.Size([960, 8]), 20)
    """

    def __init__(self, estimator: nn.Module, encoder: CompactCooperativeEncoder, config: DynFocusConfig) -> None:
        super().__init__()
        self.estimator = estimator
        self.encoder = encoder
        self.config = config

    def forward(
        self,
        frames: Float[Tensor, "batch frames patches dim"],
        text: Float[Tensor, "batch *each queries dim_text"] | None = None,
        *,
        text_mask: Bool[Tensor, "batch *each queries"] | None = None,
        frame_mask: Bool[Tensor, "batch frames"] | None = None,
        grid: Grid | None = None,
        budget: TokenBudget | None = None,
        focus_index: Int[Tensor, "batch chosen"] | None = None,
        hard: bool | None = None,
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "batch samples prototypes"] | None = None,
        keep_merging: bool = False,
    ) -> CompressedVideo:
        """Compress a batch of videos.

        Args:
            frames: V, patch features without class or register tokens.
            text: Q, the features of the question, per video or per frame.
            text_mask: Which text tokens are real.
            frame_mask: Which frames are real; padding frames get no token.
            grid: (height, width) of a frame in patches, where it is not square.
            budget: Tokens per video; the configuration's L and r without one.
            focus_index: Put these frames in focus instead of asking DPE (keyframes of one's own; the oracle of a
                comparison); no budget with it.
            hard, generator, noise: As in `DynamicPrototypeEstimator`.
            keep_merging: As in `CompactCooperativeEncoder`.

        Raises:
            ValueError: features of another width, text of another width, a budget too small for the frames.
        """
        shared: dict[str, Any] = {"grid": grid, "hard": hard, "generator": generator, "keep_merging": keep_merging}
        if focus_index is not None and budget is not None:
            raise ValueError(
                f"DynFocusConnector: expected focus_index or a budget, got both ({focus_index.shape[1]} frames and "
                f"{budget}). The frames decide the number of tokens."
            )
        if budget is None:
            return self._compress(frames, text, text_mask, frame_mask, None, focus_index, noise=noise, **shared)
        plans = self.plan(frames.shape[2], budget, frames.shape[1], frame_mask)
        if frame_mask is None or len(plans) == 1:
            frames = frames if frame_mask is None else frames[:, frame_mask[0]]
            return self._compress(frames, text, text_mask, None, plans[0], None, noise=noise, **shared)
        videos = []
        for b, plan in enumerate(plans):
            row = slice(b, b + 1)
            one = [None if value is None else value[row] for value in (text, text_mask, noise)]
            kept = frame_mask[b]
            if text is not None and text.ndim == 4:
                one[:2] = [None if value is None else value[:, kept] for value in one[:2]]
            videos.append(self._compress(frames[row, kept], one[0], one[1], None, plan, None, noise=one[2], **shared))
        return CompressedVideo.pack(videos)

    def plan(
        self, num_patches: int, budget: TokenBudget, num_frames: int, frame_mask: Tensor | None = None
    ) -> list[BudgetPlan]:
        """What a budget means for each video: frames, events, focus frames and tokens, before anything is computed."""
        lengths = [num_frames] if frame_mask is None else frame_mask.sum(1).tolist()
        counts = self.encoder.token_counts(num_patches)
        return [budget.plan(length, num_patches, counts, self.config.focus_ratio) for length in lengths]

    def num_tokens(self, num_frames: int, num_patches: int) -> int:
        """Tokens of one video without a budget."""
        events = min(self.config.num_prototypes, num_frames)
        focus = num_focus_frames(events, self.config.focus_ratio)
        return self.encoder.token_counts(num_patches).total(num_frames, focus)

    def _compress(
        self,
        frames: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None,
        frame_mask: Tensor | None,
        plan: BudgetPlan | None,
        focus_index: Tensor | None,
        *,
        grid: Grid | None,
        hard: bool | None,
        generator: torch.Generator | None,
        noise: Tensor | None,
        keep_merging: bool,
    ) -> CompressedVideo:
        length = frames.shape[1]
        picked: Tensor | None = None
        if plan is not None and plan.num_frames < length:
            picked = torch.tensor(evenly(length, plan.num_frames), device=frames.device)
            frames = frames[:, picked]
            if text is not None and text.ndim == 4:
                text, text_mask = text[:, picked], None if text_mask is None else text_mask[:, picked]
        selection: FrameSelection = self.estimator(
            frames,
            text,
            text_mask=text_mask,
            frame_mask=frame_mask,
            grid=grid,
            num_prototypes=None if plan is None else plan.num_prototypes,
            num_focus=None if plan is None else plan.num_focus,
            focus_index=focus_index,
            hard=hard,
            generator=generator,
            noise=noise,
        )
        if plan is not None and plan.everything:
            return self.encoder.keep_all(frames, selection)
        video: CompressedVideo = self.encoder(
            frames,
            selection,
            text,
            text_mask=text_mask,
            frame_mask=frame_mask,
            grid=grid,
            num_tokens=None if focus_index is not None else self._known_tokens(frames, frame_mask, plan),
            focus_only=plan is not None and plan.focus_only,
            keep_merging=keep_merging,
        )
        return video if picked is None else video._replace(frame_index=picked[video.frame_index])

    def _known_tokens(self, frames: Tensor, frame_mask: Tensor | None, plan: BudgetPlan | None) -> int | None:
        if plan is not None:
            return len(frames) * plan.num_tokens
        if frame_mask is None:
            return len(frames) * self.num_tokens(frames.shape[1], frames.shape[2])
        lengths: list[int] = frame_mask.sum(1).tolist()
        return sum(self.num_tokens(length, frames.shape[2]) for length in lengths)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_folder(save_directory, self.config.to_dict(), self.state_dict())

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        map_location: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        **hub: Any,
    ) -> DynFocusConnector:
        config, weights = (find_file(model_id, name, hub) for name in (CONFIG_NAME, WEIGHTS_NAME))
        values = DynFocusConfig.from_dict(json.loads(Path(config).read_text()))
        connector = build_connector(values, device=map_location, dtype=dtype)
        load_exactly(connector, load_file(weights, device=str(map_location)), model_id)
        return connector.eval()


def build_connector(
    config: DynFocusConfig, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> DynFocusConnector:
    """The connector that `config` describes, with random weights.

    Args:
        config: What to build.
        device: Where; ``"meta"`` allocates nothing.
        dtype: Of the parameters.

    Example:
        >>> connector = build_connector(DynFocusConfig.paper(), device="meta")
        >>> trainable = sum(p.numel() for p in connector.encoder.parameters())
        >>> trainable - sum(p.numel() for p in connector.encoder.rods.query.parameters())
        30307712
    """
    estimator = DynamicPrototypeEstimator(
        config.dim,
        num_prototypes=config.num_prototypes,
        focus_ratio=config.focus_ratio,
        pool_grid=config.pool_grid,
        num_neighbors=config.temporal_neighbors,
        distance_scale=config.distance_scale,
        merge_weights=config.merge_weights,
        clustering=config.clustering,
        clustering_seeding=config.clustering_seeding,
        clustering_seed=config.clustering_seed,
        scorer=config.scorer,
        score_input=config.score_input,
        score_hidden=config.score_hidden,
        score_shares_context=config.score_shares_context,
        score_epsilon=config.score_epsilon,
        text_weight=config.text_weight,
        dim_text=config.dim_text,
        sigma=config.sigma,
        num_samples=config.num_samples,
        gradient=config.gradient,
        relaxation=config.relaxation,
        device=device,
        dtype=dtype,
    )
    encoder = CompactCooperativeEncoder(
        config.dim,
        config.dim_out,
        dim_text=config.dim_text,
        pool_grid=config.pool_grid,
        spatial_prototypes=config.spatial_prototypes,
        spatial_neighbors=config.spatial_neighbors,
        spatial_order=config.spatial_order,
        merge_weights=config.merge_weights,
        distance_scale=config.distance_scale,
        cones=config.cones,
        rod_tokens=config.rod_tokens,
        rod_input=config.rod_input,
        rod_attention=config.rod_attention,
        rod_temperature=config.rod_temperature,
        rods_when_all_focus=config.rods_when_all_focus,
        projector=config.projector,
        device=device,
        dtype=dtype,
    )
    return DynFocusConnector(estimator, encoder, config)
