"""A space that frames and words share: the stand-in for CLIP in Appendix A's answer-irrelevant ratio."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dynfocus_reference.planted.memory import Memory
from dynfocus_reference.planted.vocabulary import word_tokenizer, words
from dynfocus_reference.planted.world import SIGN, Story

WIDTH, STEPS, BATCH, RATE = 32, 600, 64, 5e-3


class SharedSpace(nn.Module):
    """Vectors of frames and words, trained until their cosine says whether a frame shows what a word names.

    Args:
        dim: Of the tower's patches.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.patch = nn.Sequential(nn.Linear(dim, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.word = nn.Embedding(len(words()), WIDTH)
        self.scale, self.bias = nn.Parameter(torch.tensor(10.0)), nn.Parameter(torch.tensor(-5.0))

    def frames(self, patches: Float[Tensor, "frames patches dim"]) -> Float[Tensor, "frames width"]:
        """One vector per frame: each coordinate's maximum over the patches."""
        return self.patch(patches).amax(1)

    def loss(self, patches: Float[Tensor, "frames patches dim"], told: Bool[Tensor, "frames words"]) -> Tensor:
        """Of every frame and every word: do they belong together?"""
        frames = nn.functional.normalize(self.frames(patches), dim=-1)
        logits = self.scale * frames @ nn.functional.normalize(self.word.weight, dim=-1).mT + self.bias
        return nn.functional.binary_cross_entropy_with_logits(logits, told.float()) * len(words())


def captions(story: Story) -> list[list[str]]:
    """What a caption of each frame names: background, board and lamp; clutter goes without saying."""
    told = [[scene.color, "ball"] for scene in story.scenes for _ in range(scene.start, scene.stop)]
    for name, scene in story.boards.items():
        assert scene.board is not None
        for frame in range(scene.start, scene.stop):
            told[frame] += ["sign"] if name == SIGN else [name, "board"]
            told[frame] += scene.board.symbols
    for start, stop in story.lamps:
        for frame in range(start, stop):
            told[frame] += ["lamp"]
    return told


def share_space(memory: Memory, *, steps: int = STEPS, seed: int = 0) -> SharedSpace:
    """Learn the space from the frames of these stories and their captions."""
    number = {word: place for place, word in enumerate(words())}
    told = torch.zeros(len(memory), memory.length, len(number), dtype=torch.bool)
    for story, frames in zip(memory.stories, told, strict=True):
        for row, caption in zip(frames, captions(story), strict=True):
            row[[number[word] for word in caption]] = True
    random = np.random.default_rng([seed, 9])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        space = SharedSpace(memory.tokens.shape[-1])
    optimizer = torch.optim.AdamW(space.parameters(), RATE)
    rule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        index = tuple(torch.as_tensor(random.integers(size, size=BATCH)) for size in told.shape[:2])
        loss = space.loss(memory.tokens[index][:, memory.first_patch :].float(), told[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rule.step()
    return space.eval()


def text_features(space: SharedSpace, text: str) -> Float[Tensor, "tokens width"]:
    """One vector per word of a text."""
    return space.word(torch.tensor(word_tokenizer()(text, add_special_tokens=False)["input_ids"])).detach()
