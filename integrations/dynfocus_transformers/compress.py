"""One batch of a host in, the same batch with fewer video tokens out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dynfocus_connector import CompressedVideo
from dynfocus_connector.evaluation import deterministic
from dynfocus_transformers.adapters import Batch, HostAdapter, Visual, flat
from dynfocus_transformers.checks import check_pictures, check_prompt, check_rows, check_tokens
from dynfocus_transformers.gather import Gather, gather_batch, plan_gather
from dynfocus_transformers.memory import EventMemory
from dynfocus_transformers.question import question_ids
from dynfocus_transformers.report import Stopwatch, VideoReport, report_video
from dynfocus_transformers.settings import Settings


class Kept(NamedTuple):
    """What is left of one video: rows and the places of their placeholders in the flattened prompts, ascending."""

    rows: Float[Tensor, "kept dim"]
    places: Int[Tensor, " kept"]
    levels: tuple[Float[Tensor, "kept dim"], ...]


class Compressed(NamedTuple):
    """The result of `compress`."""

    inputs: Batch
    gather: Gather
    report: list[VideoReport]


def compress_batch(adapter: HostAdapter, connector: nn.Module, batch: Batch, settings: Settings | None = None) -> Batch:
    """Inputs of a host with compressed videos, as its own `forward` takes them.

    Args:
        adapter: The host.
        connector: `forward(frames, text, ..., budget=...) -> CompressedVideo`.
        batch: What the processor returned, and labels.
        settings: Budget and question.

    Raises:
        ValueError: no placeholders, or not as many as the videos have tokens; a budget too small.
    """
    return compress(adapter, connector, batch, settings or Settings()).inputs


def compress(
    adapter: HostAdapter,
    connector: nn.Module,
    batch: Batch,
    settings: Settings,
    *,
    left: bool = False,
    memory: EventMemory | None = None,
) -> Compressed:
    """As `compress_batch`, with what was done; `left` is the side of new padding where the input has none."""
    check_prompt(batch)
    memory = memory or EventMemory()
    memory.begin()
    output = adapter.encode(batch)
    seen = {**batch, "dynfocus_videos": settings.videos}
    kept, report = [], []
    visuals = [visual.on(batch["input_ids"].device) for visual in adapter.visuals(output, seen)]
    for visual, places in zip(visuals, placeholders(adapter, batch, visuals), strict=True):
        if visual.num_frames:
            one, told = compress_video(adapter, connector, batch, settings, visual, places, memory)
            report.append(told)
        else:
            one = Kept(visual.rows, places, visual.levels)
        kept.append(one)
    ids = batch["input_ids"]
    stay = (ids != adapter.placeholder).flatten()
    stay = stay.scatter(0, torch.cat([one.places for one in kept]), True).view_as(ids)
    gather = plan_gather(stay, batch.get("attention_mask"), left)
    return Compressed(hand_over(adapter, batch, output, kept, gather), gather, report)


def placeholders(adapter: HostAdapter, batch: Batch, visuals: list[Visual]) -> list[Int[Tensor, " placeholders"]]:
    """Where each visual's placeholders are in the flattened prompts."""
    ids = batch["input_ids"]
    places = (ids == adapter.placeholder).flatten().nonzero().flatten()
    counts = [len(visual.rows) for visual in visuals]
    if not len(places):
        raise ValueError(
            f"compress_batch: expected a prompt with {sum(counts)} placeholders (token {adapter.placeholder}) for the "
            f"video, got one without any. Name the video in the chat that the processor turns into text."
        )
    if len(places) != sum(counts):
        raise ValueError(
            f"compress_batch: expected {sum(counts)} placeholders (token {adapter.placeholder}) for visuals of "
            f"{counts} tokens, got {len(places)}. Prepare text and video with the host's processor in one call."
        )
    check_rows(places // ids.shape[1], counts)
    return list(places.split(counts))


def compress_video(
    adapter: HostAdapter,
    connector: nn.Module,
    batch: Batch,
    settings: Settings,
    visual: Visual,
    places: Int[Tensor, " placeholders"],
    memory: EventMemory,
) -> tuple[Kept, VideoReport]:
    """Run the connector on one video and put its tokens on their anchors."""
    frames = visual.patches()
    length = batch["input_ids"].shape[1]
    first, last = places[[0, -1]].tolist()
    ids = question_ids(adapter, batch, settings, last // length, (first % length, last % length))
    text = adapter.model.get_input_embeddings()(ids)[None] if len(ids) else None
    dtype = next((p.dtype for p in connector.parameters() if p.is_floating_point()), frames.dtype)
    budget = settings.budget()
    with deterministic(connector), memory.used_by(connector), Stopwatch(frames.device) as stopwatch:
        video = connector(
            frames[None].to(dtype),
            None if text is None else text.to(dtype),
            grid=visual.grid,
            keep_merging=bool(visual.levels) or settings.keep_merging,
            **({} if budget is None else {"budget": budget}),
        )
    told = report_video(frames, visual.grid, adapter.joined, video, stopwatch, connector, text is not None)
    kept = place(visual, places, video)
    return kept, told._replace(dropped=len(places) - len(kept.places))


def place(visual: Visual, places: Int[Tensor, " placeholders"], video: CompressedVideo) -> Kept:
    """Tokens on their anchors, class tokens where all patches stay, newlines always; in the order of the prompt."""
    slots = visual.patches(places)
    check_tokens(visual, slots, video)
    at = slots[video.frame_index, video.anchor]
    rows, levels = [video.tokens.to(visual.rows)], [[level] for level in pool_levels(visual, video)]
    stay = torch.ones(len(places), dtype=torch.bool, device=places.device)
    body = visual.num_frames * (visual.class_tokens + slots.shape[1])
    if len(at) < slots.numel():
        stay[:body] = False
    else:
        visual.patches(stay).fill_(False)
    rows.append(visual.rows[stay])
    for level, whole in zip(levels, visual.levels, strict=True):
        level.append(whole[stay])
    where, order = torch.cat([at, places[stay]]).sort()
    return Kept(torch.cat(rows)[order], where, tuple(torch.cat(level)[order] for level in levels))


def pool_levels(visual: Visual, video: CompressedVideo) -> list[Float[Tensor, "tokens dim"]]:
    """Features of deeper layers, merged as the tokens were; at the anchors where the connector does not tell how."""
    levels = [visual.patches(level) for level in visual.levels]
    if video.merging is None:
        return [level[video.frame_index, video.anchor] for level in levels]
    return [video.pool_like(level[None]).to(level.dtype) for level in levels]


def hand_over(adapter: HostAdapter, batch: Batch, output: Any, kept: list[Kept], gather: Gather) -> Batch:
    """The shorter batch, with visual tokens in the form the host takes, and without what they were made of."""
    config = adapter.config.get_text_config()
    pictures = adapter.pictures(batch)
    if pictures is not None:
        check_pictures(adapter, batch, pictures)
    batch = dict(batch)
    if batch.get("position_ids") is None:
        batch.update(own_positions(adapter, batch, gather))
    pad = config.pad_token_id if isinstance(getattr(config, "pad_token_id", None), int) else 0
    short = gather_batch(batch, gather, max(pad, 0))
    for key in (*adapter.video_keys, *adapter.image_keys, *adapter.other_keys):
        short.pop(key, None)
    for key in ("image_grid_thw", "video_grid_thw"):
        short.pop(key, None)
    if adapter.takes_encoder_outputs:
        short["mm_encoder_outputs"] = encoder_outputs(output, kept, pictures)
        return short
    embeds = adapter.model.get_input_embeddings()(short["input_ids"])
    if pictures is not None:
        mask = short["input_ids"] == adapter.picture_placeholder
        embeds = scatter(embeds, mask & gather.real, flat(pictures.pooler_output))
    mask = short["input_ids"] == adapter.placeholder
    short["inputs_embeds"] = scatter(embeds, mask, torch.cat([one.rows for one in kept]))
    return short


def own_positions(adapter: HostAdapter, batch: Batch, gather: Gather) -> Batch:
    """The host's own positions of the uncompressed prompt; later tokens continue them at the shorter length."""
    positions = adapter.positions(batch)
    if positions is None:
        return {}
    adapter.core.rope_deltas = positions[1] + gather.dropped[:, None].to(positions[1])
    return {"position_ids": positions[0]}


def scatter(
    embeds: Float[Tensor, "batch short dim"], mask: Bool[Tensor, "batch short"], rows: Float[Tensor, "rows dim"]
) -> Float[Tensor, "batch short dim"]:
    """Rows in the places of the mask, in order."""
    return embeds.masked_scatter(mask[..., None], rows.to(embeds))


def encoder_outputs(output: Any, kept: list[Kept], pictures: Any | None) -> dict[str, Any]:
    """What the host's encoder would have returned for shorter videos."""
    output.pooler_output = tuple(one.rows for one in kept)
    if getattr(output, "deepstack_features", None) is not None:
        output.deepstack_features = [list(level) for level in zip(*(one.levels for one in kept), strict=True)]
    return {"video": output} if pictures is None else {"image": pictures, "video": output}
