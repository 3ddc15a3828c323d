"""What ⟨g, P⟩ gains when two items at the border of a sample change places, for every item at once."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from dynfocus_connector.topk_samples import Border, cells, read


def exchange_gains(
    upstream: Float[Tensor, "batch focus prototypes"], items: Int[Tensor, "batch samples focus"], border: Border
) -> tuple[Float[Tensor, "batch samples focus"], Float[Tensor, "batch samples width"]]:
    """⟨g, P with i⟩ − ⟨g, P without i⟩: for held items i, whose place the next item takes, and for all others, which
    take the place of the last held item. The second has L + 1 columns and means nothing at held items.

    Let here, below and above be g at an item's slot, one slot lower and one higher. When i enters and p leaves, the
    held items j between them move one slot, up where i < p, down where p < i:

        gain_i = here_i − here_p + Σ_{i < j < p} (above_j − here_j)     for i < p
        gain_i = below_i − here_p + Σ_{p < j < i} (below_j − here_j)    for p < i

    and the same with its sign changed where i leaves and p enters. Both sums are differences of one prefix sum over
    the held items, whose terms are here_j − above_j on one side of p and below_j − here_j on the other.
    """
    rows = pad(upstream, (0, 1, 1, 1))  # slot j in row j + 1; the last column is the item of padded slots
    steps = rows[:, :-1] - rows[:, 1:]
    return _leaving(rows, steps, items, border), _entering(rows, steps, items, border)


def _leaving(
    rows: Float[Tensor, "batch rows width"],
    steps: Float[Tensor, "batch steps width"],
    items: Int[Tensor, "batch samples focus"],
    border: Border,
) -> Float[Tensor, "batch samples focus"]:
    """The gain of every held item over the next item in its place."""
    width = rows.shape[-1]
    after = items > border.next
    cell = torch.add(cells(items, width), after, alpha=width)
    prefix = pad(read(steps, cell).cumsum(-1), (1, 0))
    slot = border.rank.gather(-1, border.next).long()
    entrant = slot * width + border.next
    entrant_value = torch.where(after, read(rows, entrant + width), read(rows, entrant))
    return read(rows, cell) + prefix[..., :-1] - prefix.gather(-1, slot) - entrant_value


def _entering(
    rows: Float[Tensor, "batch rows width"],
    steps: Float[Tensor, "batch steps width"],
    items: Int[Tensor, "batch samples focus"],
    border: Border,
) -> Float[Tensor, "batch samples width"]:
    """The gain of every item that is not held over the last held item, whose place it takes."""
    width = rows.shape[-1]
    cell = torch.add(cells(items, width), items < border.last, alpha=width)
    row = border.rank.gather(-1, border.last).long()
    step = read(steps, cell).masked_fill(items == border.last, 0)
    prefix = step.new_zeros(border.rank.shape).scatter_add(-1, items, step).cumsum(-1)
    leaver_value = read(rows, row * width + border.last) + prefix.gather(-1, border.last)
    before = torch.arange(width, dtype=torch.int32, device=rows.device) < border.last.int()
    return prefix.sub_(leaver_value).add_(rows.gather(1, (border.rank + before).long()))
