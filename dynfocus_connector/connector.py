"""The connector: DPE, then CCE. Features in, tokens out."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
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
from dynfocus_connector.merging import Merging, MergingPerVideo
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
        options: dict[str, Any] = {"grid": grid, "hard": hard, "generator": generator, "keep_merging": keep_merging}
        if budget is None:
            known = None if focus_index is not None else self._total_tokens(frames, frame_mask)
            masks: dict[str, Any] = {"text_mask": text_mask, "frame_mask": frame_mask}
            return self._compress(
                frames, text, num_tokens=known, focus_index=focus_index, noise=noise, **masks, **options
            )
        if focus_index is not None:
            raise ValueError(
                f"DynFocusConnector: expected focus_index or a budget, got both ({focus_index.shape[1]} frames and "
                f"{budget}). The frames decide the number of tokens."
            )
        plans = self.plan(frames.shape[2], budget, frames.shape[1], frame_mask)
        if frame_mask is None:
            real = torch.arange(frames.shape[1], device=frames.device)
            return self._follow(plans[0], real, frames, text, text_mask, noise, options)
        videos = []
        for b, plan in enumerate(plans):
            own = [None if value is None else value[b : b + 1] for value in (text, text_mask, noise)]
            real = frame_mask[b].nonzero()[:, 0]
            videos.append(self._follow(plan, real, frames[b : b + 1], own[0], own[1], own[2], options))
        return _as_batch(videos)

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

    def _follow(
        self,
        plan: BudgetPlan,
        real: Int[Tensor, " real"],
        frames: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None,
        noise: Tensor | None,
        options: dict[str, Any],
    ) -> CompressedVideo:
        """Compress the frames that a plan lets take part, and tell of them by their place in the video."""
        length = frames.shape[1]
        chosen = torch.tensor(evenly(len(real), plan.num_frames), dtype=torch.long, device=frames.device)
        picked, frame_mask = real[chosen], None
        if not len(picked):  # a padding frame stands in, so that every parameter takes part
            picked = chosen.new_zeros(1)
            frame_mask = torch.zeros(len(frames), 1, dtype=torch.bool, device=frames.device)
        if text is not None and text.ndim == 4:
            text, text_mask = text[:, picked], None if text_mask is None else text_mask[:, picked]
        video = self._compress(
            frames if len(picked) == length else frames[:, picked],
            text,
            text_mask=text_mask,
            frame_mask=frame_mask,
            plan=plan if plan.num_frames else None,
            num_tokens=len(frames) * plan.num_tokens,
            noise=noise,
            **options,
        )
        if len(picked) == length:
            return video
        assert video.selection is not None
        merging = video.merging
        return video._replace(
            frame_index=chosen[video.frame_index],
            selection=video.selection.in_video(picked, length),
            merging=merging._replace(picked=picked) if isinstance(merging, Merging) else None,
        )

    def _compress(
        self,
        frames: Tensor,
        text: Tensor | None,
        *,
        text_mask: Tensor | None,
        frame_mask: Tensor | None,
        grid: Grid | None,
        hard: bool | None,
        generator: torch.Generator | None,
        noise: Tensor | None,
        num_tokens: int | None,
        keep_merging: bool,
        plan: BudgetPlan | None = None,
        focus_index: Tensor | None = None,
    ) -> CompressedVideo:
        """DPE, then CCE."""
        place: dict[str, Any] = {"text_mask": text_mask, "frame_mask": frame_mask, "grid": grid}
        selection: FrameSelection = self.estimator(
            frames,
            text,
            num_prototypes=None if plan is None else plan.num_prototypes,
            num_focus=None if plan is None else plan.num_focus,
            focus_index=focus_index,
            hard=hard,
            generator=generator,
            noise=noise,
            **place,
        )
        if plan is not None and plan.everything:
            return self.encoder.keep_all(frames, selection)
        focus_only = plan is not None and plan.focus_only
        video: CompressedVideo = self.encoder(
            frames, selection, text, num_tokens=num_tokens, focus_only=focus_only, keep_merging=keep_merging, **place
        )
        return video

    def _total_tokens(self, frames: Tensor, frame_mask: Tensor | None) -> int:
        """Tokens of a batch without a budget; the one place where lengths become integers."""
        lengths = [frames.shape[1]] * len(frames) if frame_mask is None else frame_mask.sum(1).tolist()
        return sum(self.num_tokens(length, frames.shape[2]) for length in lengths)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """As `PyTorchModelHubMixin.save_pretrained`; an error leaves what the folder held before."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        if options.get("push_to_hub"):
            options.setdefault("repo_id", folder.name)
        with TemporaryDirectory(dir=folder, prefix=".part-") as part:
            result = super().save_pretrained(part, **options)
            for file in Path(part).iterdir():
                if file.name != "README.md" or not (folder / file.name).exists():
                    file.replace(folder / file.name)
        return result

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
        state = load_file(weights, device=str(map_location))
        dtype = next((tensor.dtype for tensor in state.values()), None) if dtype is None else dtype
        connector = build_connector(values, device=map_location, dtype=dtype)
        load_exactly(connector, state, model_id)
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
        gradient_samples=config.gradient_samples,
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


def _as_batch(videos: list[CompressedVideo]) -> CompressedVideo:
    """Videos compressed one by one as one batch, with what is known of each."""
    batch = CompressedVideo.pack(videos)
    selections = [video.selection for video in videos if video.selection is not None]
    mergings = tuple(video.merging for video in videos if isinstance(video.merging, Merging))
    return batch._replace(
        selection=FrameSelection.stack(selections) if len(selections) == len(videos) else None,
        merging=MergingPerVideo(mergings) if len(mergings) == len(videos) else None,
    )
