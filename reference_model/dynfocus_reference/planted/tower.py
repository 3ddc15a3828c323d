"""The vision tower learns to see before it is frozen: the stand-in for a pretrained encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.planted.files import SCALE
from dynfocus_reference.planted.truth import SIZES, THINGS, Truth, truth
from dynfocus_reference.planted.world import GRID, Story, render, write_story

POOLED = 3
"""cells along a side in which tiles of boards must still be told apart"""
FEATURE_SCALE = 9.0
"""the deviation of the features after training: divided by it, they are as large as those of a text encoder"""
FIRST_FRAMED = next(number for number, thing in enumerate(THINGS) if thing.startswith("framed"))


class Heads(nn.Module):
    """What is asked of the tower's patches; thrown away after training.

    Of every patch: the background's colour, the thing in it, its board, row and column. Of every cell of 2 × 2 patches:
    the tile of a board in it and its board. Of the mean of all patches: colour, lamp, column of the ball, and board.
    No label says which frame answers a question.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.patch = nn.ModuleList(nn.Linear(dim, size) for size in SIZES)
        self.cell = nn.ModuleList(nn.Linear(dim, size) for size in (SIZES.thing, SIZES.board))
        self.frame = nn.ModuleList(nn.Linear(dim, size) for size in (SIZES.color, 2, GRID, SIZES.board))

    def loss(self, patches: Float[Tensor, "frames patches dim"], labels: Truth) -> Float[Tensor, ""]:
        """Cross-entropies, summed."""
        rows = [torch.as_tensor(values) for values in labels]
        cells = rearrange(patches, "t (p a q b) d -> t (p q) (a b) d", p=POOLED, q=POOLED, a=GRID // POOLED).mean(2)
        asked = [(head(patches), row) for head, row in zip(self.patch, rows, strict=True)]
        asked += [
            (head(cells), row) for head, row in zip(self.cell, map(torch.as_tensor, in_cells(labels)), strict=True)
        ]
        asked += [
            (head(patches.mean(1)), row)
            for head, row in zip(self.frame, map(torch.as_tensor, in_frames(labels)), strict=True)
        ]
        return torch.stack([nn.functional.cross_entropy(a.flatten(0, -2), b.flatten()) for a, b in asked]).sum()


def in_cells(labels: Truth) -> tuple[np.ndarray, np.ndarray]:
    """The framed thing and the board of every cell of 2 × 2 patches, 0 where there is none: Int[frames, 9] each."""
    framed = np.where(labels.thing >= FIRST_FRAMED, labels.thing, 0) * (labels.board > 0)
    shape = "t (p a q b) -> t (p q) (a b)"
    sizes = {"p": POOLED, "q": POOLED, "a": GRID // POOLED}
    return tuple(rearrange(values, shape, **sizes).max(-1) for values in (framed, labels.board))


def in_frames(labels: Truth) -> tuple[np.ndarray, ...]:
    """Of every frame: colour, whether the lamp shines, the ball's column, the board: Int[frames] each."""
    lamp = (labels.thing[:, 0] == THINGS.index("lamp")).astype(np.int64)
    ball = (labels.thing == THINGS.index("ball")).argmax(1) % GRID
    return labels.color[:, 0], lamp, ball, labels.board.max(1)


def through_a_file(frames: UInt8[Tensor, "frames height width 3"]) -> UInt8[Tensor, "frames height width 3"]:
    """How frames look once they were enlarged for a file and resized again: a little sharper."""
    large = rearrange(frames, "t h w c -> t c h w").float()
    large = large.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3)
    small = nn.functional.interpolate(large, scale_factor=1 / SCALE, mode="bicubic", antialias=True)
    return rearrange(small, "t c h w -> t h w c").round().clamp(0, 255).to(torch.uint8)


def pictures(stories: Sequence[Story], batch: int, seed: int) -> Iterator[tuple[Tensor, Truth]]:
    """Frames of random stories, every other batch as a file shows them, and their labels; without end."""
    frames = torch.as_tensor(np.concatenate([render(story) for story in stories]))
    labels = Truth(*map(np.concatenate, zip(*map(truth, stories), strict=True)))
    filed = through_a_file(frames)
    random = np.random.default_rng(seed)
    while True:
        for source in (frames, filed):
            index = random.integers(len(frames), size=batch)
            yield source[index], Truth(*(values[index] for values in labels))


def train_tower(
    model: ReferenceModel,
    *,
    steps: int = 1500,
    batch: int = 64,
    stories: int = 300,
    seed: int = 10**6,
    lr: float = 2e-3,
) -> list[float]:
    """Teach the tower what is in every cell; the losses of every step. It is frozen before and after."""
    tower, heads = model.vision.model, Heads(model.vision.dim)
    weights = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    source = pictures([write_story(seed + number) for number in range(stories)], batch, seed)
    tower.requires_grad_(True)
    losses = []
    for _ in range(steps):
        frames, labels = next(source)
        # the tower's own forward never lets gradients through
        patches, _prefix = model.vision._block(model.normalize(frames))
        loss = heads.loss(patches, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    tower.requires_grad_(False)
    divide_output(tower, FEATURE_SCALE)
    return losses


@torch.no_grad()
def divide_output(tower: nn.Module, divisor: float) -> None:
    """Everything that adds to the residual stream, divided; the norms inside the blocks do not notice."""
    for parameter in (*tower.patch_embed.proj.parameters(), tower.cls_token, tower.pos_embed):  # type: ignore
        parameter /= divisor
    for block in tower.blocks:  # type: ignore[union-attr]
        for parameter in (*block.attn.proj.parameters(), *block.mlp.fc2.parameters()):
            parameter /= divisor
