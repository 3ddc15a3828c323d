"""Run by torchrun: the script of the guide under ZeRO-2, as printed, and where batches without a video come between."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import deepspeed.ops
import torch
import torch.distributed as dist

from tests.integration.transformers.guide import load_script


def some_without_video(script: Any) -> Any:
    """`collate` that gives each process text alone at every other step, never to both at once."""
    whole, step = script.collate, itertools.count()

    def collate(rows: list[dict[str, Any]], answered: bool = True) -> dict[str, Any]:
        batch = whole(rows, answered)
        if answered and (next(step) + dist.get_rank()) % 2:
            del batch["pixel_values_videos"]
            kept = batch["input_ids"][0] != script.VIDEO
            batch = {name: value[:, kept] for name, value in batch.items()}
        return batch

    return collate


def agree(connector: torch.nn.Module) -> bool:
    """Whether every process holds the same weights."""
    own = torch.cat([parameter.detach().flatten() for parameter in connector.parameters()])
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    return all(torch.equal(own, other) for other in every)


def main(path: str) -> None:
    """Both runs; what they found goes beside the script."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # gloo instead of an extension to compile
    torch.set_num_threads(1)
    folder = Path(path).parent
    for name in ("plain", "mixed"):
        script = load_script(Path(path))
        if name == "mixed":
            script.collate = some_without_video(script)
        options = ["--output", str(folder / name), "--deepspeed", str(folder / "zero2.json"), "--steps", "20"]
        trainer = script.main(options)
        found = {
            "world_size": dist.get_world_size(),
            "zero_stage": trainer.deepspeed.zero_optimization_stage(),
            "agree": agree(trainer.accelerator.unwrap_model(trainer.model).dynfocus),
            "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        }
        if trainer.is_world_process_zero():
            (folder / f"{name}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
