"""Which share of the files is this process's."""

from __future__ import annotations

import os
from typing import NamedTuple


class Shard(NamedTuple):
    """Every `shards`-th file, beginning with number `number`."""

    number: int = 0
    shards: int = 1

    @staticmethod
    def parse(text: str) -> Shard:
        """From ``"0/8"``; under torchrun each process takes its share of it.

        Raises:
            ValueError: not of this form, or out of range.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ValueError(f"extract-features: expected --shard I/N with 0 <= I < N, got {text!r}.")
        rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
        return Shard(int(index) * world + rank, int(count) * world)
