"""How the reference model watches: pictures → tower → Q-Former → connector."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dynfocus_connector import CompressedVideo, DynFocusConnector, TokenBudget
from dynfocus_reference.config import ReferenceConfig
from dynfocus_reference.qformer import QuestionFormer
from dynfocus_reference.vision import VisionTower
from dynfocus_reference.visuals import Visuals, in_chunks, pad_rows


class Watching(nn.Module):
    """The half of `ReferenceModel` that turns visual inputs into tokens.

    Attributes:
        frames_per_chunk: Frames in the tower at a time.
        reads_features: Every visual input of every rank comes as the tower's tokens, computed before; then text-only
            batches leave the tower out too, so that ZeRO-3's ranks stay in step.
    """

    config: ReferenceConfig
    vision: VisionTower
    qformer: QuestionFormer
    connector: DynFocusConnector
    device: torch.device
    dtype: torch.dtype
    frames_per_chunk: int
    reads_features: bool

    def see(self, frames: Tensor) -> Float[Tensor, "frames all dim"]:
        """All tokens of the tower, some frames at a time; pictures as bytes are normalised here."""
        return in_chunks(lambda some: self.vision(self.normalize(some)).tokens, self.frames_per_chunk, frames)

    def normalize(self, frames: Tensor) -> Float[Tensor, "frames 3 height width"]:
        """(pixel / 255 − mean) / std for UInt8[frames height width 3]; floating-point frames are normalised already."""
        if frames.dtype != torch.uint8:
            return frames
        mean, std = (torch.tensor(x, device=frames.device) for x in (self.config.image_mean, self.config.image_std))
        return ((frames.float() / 255 - mean) / std).permute(0, 3, 1, 2)

    def ask(
        self,
        tokens: Float[Tensor, "rows all dim"],
        question: Int[Tensor, "rows length"],
        mask: Bool[Tensor, "rows length"],
    ) -> Float[Tensor, "rows queries hidden"]:
        """Q of every (frame, question), some at a time."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.qformer.query_tokens.requires_grad):
            return in_chunks(self.qformer, self.frames_per_chunk, tokens, question, mask)

    def patches(self, tokens: Float[Tensor, "*batch all dim"]) -> Float[Tensor, "*batch patches dim"]:
        """V: the tower's tokens without class and register tokens."""
        return tokens[..., self.vision.num_tokens - self.vision.num_patches :, :]

    def compress(self, visuals: Visuals, budget: TokenBudget | None = None) -> CompressedVideo:
        """The tokens of every placeholder, in order; `budget` is per placeholder."""
        tokens = self.see(visuals.frames) if visuals.frames.ndim == 4 else visuals.frames
        tokens = tokens.to(self.dtype)
        frame, placeholder, mask = visuals.rows()
        rows = tokens[frame]
        text = self.ask(rows, visuals.question_ids[placeholder], visuals.question_mask[placeholder])
        limit = {} if budget is None else {"budget": budget}
        return self.connector(pad_rows(self.patches(rows), mask), pad_rows(text, mask), frame_mask=mask, **limit)

    def nothing_to_see(self) -> CompressedVideo:
        """A video without tokens that has passed every part: text-only batches stay in step with the others."""
        question = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        tokens = self._blank().to(self.dtype)
        text = self.ask(tokens, question, torch.ones_like(question, dtype=torch.bool))
        nobody = torch.zeros(1, 1, dtype=torch.bool, device=self.device)
        return self.connector(self.patches(tokens)[None], text[None], frame_mask=nobody)

    def no_video(self) -> CompressedVideo:
        """A video without tokens that passes no part: enough where no gradient is wanted."""
        none = torch.zeros(0, dtype=torch.long, device=self.device)
        tokens = torch.zeros(0, self.config.text_config.hidden_size, dtype=self.dtype, device=self.device)
        return CompressedVideo.build(tokens, none, none, none, none.new_zeros(1))

    def _blank(self) -> Float[Tensor, "1 all dim"]:
        """The tower's tokens of a frame that nobody looks at."""
        if self.reads_features:
            return torch.zeros(1, self.vision.num_tokens, self.vision.dim, device=self.device)
        return self.see(torch.zeros(1, 3, self.config.image_size, self.config.image_size, device=self.device))
