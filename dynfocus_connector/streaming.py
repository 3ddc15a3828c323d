"""Frames that arrive one by one: the same decisions, tokens at any time, bounded memory."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynfocus_connector.budget import TokenBudget
from dynfocus_connector.connector import DynFocusConnector
from dynfocus_connector.contracts import CompressedVideo
from dynfocus_connector.estimator import DynamicPrototypeEstimator
from dynfocus_connector.pooling import Grid, pool_cells, resolve_grid
from dynfocus_connector.stream_answers import Answers, Part
from dynfocus_connector.stream_memory import HeldFrames, StreamMemory


class StreamingConnector:
    """A connector for one video that has not ended.

    Push frames as they arrive, ask for tokens at any time, push on. While at most `max_frames` have come, the tokens
    are those of the connector on all of them: the same selection, the tokens to rounding. Beyond, frames that nearly
    equal a denser one leave (`StreamMemory`), and each frame held stands for a stretch of the stream, its `span`. The
    two tokens of a peripheral frame are then the mean of its stretch (content) and what the question finds in the
    frame itself (context).

    What does not depend on the question is kept until the next frame: of a further question it costs the rods, and
    with a scorer that sees the question the selection and the cones.

    Nothing here has a gradient, and the Top-K is hard whatever mode the connector is in. The connector's weights must
    not change within a stream.

    Args:
        connector: Whose decisions. Its estimator must be a `DynamicPrototypeEstimator`.
        max_frames: Frames to hold, at least twice the connector's event prototypes.
        grid: (height, width) of a frame in patches, where it is not square.

    Raises:
        TypeError: frames are chosen by something else than a `DynamicPrototypeEstimator`.
        ValueError: too small a bound.

    Example:
        >>> stream = StreamingConnector(build_connector(DynFocusConfig.training_free(dim=8)).eval(), max_frames=64)
        >>> for _ in range(10):
        ...     stream.push(torch.randn(20, 64, 8))
        >>> video = stream.tokens()
        >>> stream.num_frames, len(stream.frame_index) <= 64, video.span[-1, 1].item()
        (200, True, 199)
    """

    def __init__(self, connector: DynFocusConnector, max_frames: int = 512, *, grid: Grid | None = None) -> None:
        estimator = connector.estimator
        if not isinstance(estimator, DynamicPrototypeEstimator):
            raise TypeError(
                f"StreamingConnector: expected a connector with a DynamicPrototypeEstimator, "
                f"got {type(estimator).__name__}. Frames chosen without looking need the whole video."
            )
        least = 2 * estimator.num_prototypes
        if max_frames < least:
            raise ValueError(
                f"StreamingConnector: expected max_frames >= {least}, twice the {estimator.num_prototypes} event "
                f"prototypes, got {max_frames}."
            )
        self.connector = connector
        self.grid = grid
        self.memory = StreamMemory(max_frames, estimator.num_neighbors)
        self.answers = Answers(estimator, connector.encoder)

    @property
    def num_frames(self) -> int:
        """Frames pushed so far."""
        return self.memory.num_seen

    @property
    def frame_index(self) -> Int[Tensor, " held"]:
        """Which frames of the stream are held, ascending."""
        return self.memory.index[: self.memory.num_held].clone()

    @property
    def span(self) -> Int[Tensor, "held 2"]:
        """First and last frame of the stretch that each of them stands for; the stretches tile the stream."""
        return self.memory.spans()

    def reset(self) -> None:
        """Forget the stream; the next frame is frame 0, of any size."""
        self.memory = StreamMemory(self.memory.max_frames, self.memory.num_neighbors)
        self.answers.forget()

    @torch.no_grad()
    def push(self, frames: Float[Tensor, "*frames patches dim"]) -> None:
        """Take in the next frame or frames. How they are divided among calls makes no difference.

        Args:
            frames: Patch features of one frame or of several.

        Raises:
            ValueError: features of another width than the connector's, patches that fill no grid, or frames unlike
                those before.
        """
        frames = frames[None] if frames.ndim == 2 else frames
        self._check(frames)
        self.answers.forget()
        while len(frames):
            room = self.memory.make_room()
            self.memory.append(self._digest(frames[:room]))
            frames = frames[room:]

    @torch.no_grad()
    def tokens(
        self,
        question: Float[Tensor, "1 *each queries dim_text"] | None = None,
        *,
        text_mask: Bool[Tensor, "1 *each queries"] | None = None,
        budget: TokenBudget | None = None,
    ) -> CompressedVideo:
        """The stream so far as tokens.

        Args:
            question: Q, a batch of one as `DynFocusConnector` takes it, for the stream or for each frame held.
            text_mask: Which text tokens are real.
            budget: Tokens for the frames held.

        Returns:
            A batch of one. `frame_index`, `span` and `selection` speak of frames of the stream; in `selection.event` a
            frame that is no longer held belongs to the event of the frame that stands for it.

        Raises:
            ValueError: no frame yet, text of another width or for another number of frames, too small a budget.
        """
        if not self.num_frames:
            raise ValueError("StreamingConnector: expected at least 1 frame before tokens, got 0. Push one first.")
        held, patches = self.memory.num_held, self.memory.held().patches.shape[1]
        if question is not None and question.ndim == 4 and question.shape[1] != held:
            raise ValueError(
                f"StreamingConnector: expected text for each of the {held} frames held, got {question.shape[1]}. "
                f"`frame_index` says which they are."
            )
        part = Part.of(self.memory, None if budget is None else self.connector.plan(patches, budget, held)[0])
        if question is not None and question.ndim == 4:
            question, text_mask = question[:, part.place], None if text_mask is None else text_mask[:, part.place]
        selection = self.answers.select(self.memory, part, question, text_mask)
        grid = resolve_grid(patches, self.grid)
        return self._in_stream(part, self.answers.encode(part, selection, question, text_mask, grid))

    def _check(self, frames: Tensor) -> None:
        dim = self.connector.encoder.dim
        if frames.shape[-1] != dim:
            raise ValueError(
                f"StreamingConnector: expected features of width {dim}, got {frames.shape[-1]}. "
                f"Build the connector with dim={frames.shape[-1]}."
            )
        resolve_grid(frames.shape[1], self.grid)
        if self.memory.frames is None:
            return
        before = self.memory.frames.patches
        if frames.shape[1:] != before.shape[1:] or frames.dtype != before.dtype or frames.device != before.device:
            raise ValueError(
                f"StreamingConnector: expected frames of {before.shape[1]} patches, {before.dtype} on {before.device}, "
                f"as before, got {frames.shape[1]}, {frames.dtype} on {frames.device}. reset() starts another stream."
            )

    def _digest(self, frames: Float[Tensor, "frames patches dim"]) -> HeldFrames:
        """What is computed once per frame: pooling and S-DPC."""
        encoder = self.connector.encoder
        video = frames[None]
        spatial, objects = encoder.spatial.cluster(video)
        pooled = pool_cells(video, resolve_grid(frames.shape[1], self.grid), encoder.pool_grid)
        sources, real, _ = encoder._rod_sources(video, objects, spatial)
        wide = torch.promote_types(frames.dtype, torch.float32)
        undamaged = frames.isfinite().all(-1).any(-1)
        weight = real.to(sources.dtype)
        weight = weight / weight.sum(-1, keepdim=True).clamp(min=1)
        content = (weight[:, :, None] @ sources)[0, :, 0].to(wide).masked_fill(~undamaged[:, None], 0)
        return HeldFrames(
            frames, pooled[0], objects[0], spatial.center[0], spatial.log_density[0], content, undamaged.to(wide)
        )

    def _in_stream(self, part: Part, video: CompressedVideo) -> CompressedVideo:
        """The same tokens, told of frames of the stream instead of places in `part`."""
        assert video.selection is not None
        index, span = self.frame_index[part.place], self.span[part.place]
        frame = torch.arange(self.num_frames, device=index.device)
        heir = torch.searchsorted(span[:, 1].contiguous(), frame).clamp(max=len(index) - 1)
        outside = (frame < span[heir, 0]) | (frame > span[heir, 1])
        event = video.selection.event[:, heir].masked_fill(outside, -1)
        return video._replace(
            frame_index=index[video.frame_index],
            span=span[video.frame_index],
            selection=video.selection.in_video(index, self.num_frames)._replace(event=event),
            merging=None,
        )
