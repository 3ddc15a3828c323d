"""Where the data of every task lies, and what is missing before anything runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dynfocus_lmms_eval.tasks import mlvu_generation, open_qa, videohallucer
from dynfocus_lmms_eval.tasks.folders import home


class HubData(NamedTuple):
    """A data set that lmms-eval reads from the hub, or from a folder of that name below the working directory."""

    repository: str
    videos: str
    """below $HF_HOME"""


HUB = {
    "activitynetqa": HubData("lmms-eval/ActivityNetQA", "activitynetqa"),
    "videochatgpt": HubData("lmms-eval/VideoChatGPT", "videochatgpt"),
    "lvbench": HubData("lmms-eval/LVBench", "lvbench"),
    "mlvu_dev": HubData("sy1998/MLVU_dev", "mlvu"),
    "videomme": HubData("lmms-eval/Video-MME", "videomme"),
    "videomme_w_subtitle": HubData("lmms-eval/Video-MME", "videomme"),
}
OURS = {
    "msvd_qa": open_qa.msvd_rows,
    "msrvtt_qa": open_qa.msrvtt_rows,
    "mlvu_vs": mlvu_generation.summary_rows,
    "mlvu_ssc": mlvu_generation.sub_scene_rows,
    "videohallucer": videohallucer.rows,
}


def missing(tasks: Sequence[str], work: Path) -> list[str]:
    """What keeps tasks from running, a sentence each. Only without a network is what the hub has missing.

    Args:
        tasks: Their names.
        work: The working directory.
    """
    problems = [_problem(task, work) for task in tasks]
    return list(dict.fromkeys(problem for problem in problems if problem is not None))


def _problem(task: str, work: Path) -> str | None:
    if task in OURS:
        try:
            OURS[task](None)
        except (FileNotFoundError, ValueError) as error:
            return f"{task}: {error}"
        return None
    repository, videos = HUB[task]
    if os.environ.get("HF_HUB_OFFLINE", "").upper() not in ("1", "TRUE", "YES", "ON"):
        return None
    cached = home() / "hub" / f"datasets--{repository.replace('/', '--')}"
    if not (work / repository).is_dir() and not cached.is_dir():
        return (
            f"{task}: expected {repository} in {str(work)!r} or in the hub's cache, with HF_HUB_OFFLINE, got neither."
        )
    if not (home() / videos).is_dir():
        return f"{task}: expected its videos in {str(home() / videos)!r}, with HF_HUB_OFFLINE, got no such folder."
    return None


def documents(tasks: Sequence[str], work: Path) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """The rows of the data sets whose samples do not say what a column needs: LVBench's kinds of questions."""
    if "lvbench" not in tasks:
        return {}
    from datasets import load_dataset

    local = work / HUB["lvbench"].repository
    source = str(local) if local.is_dir() else HUB["lvbench"].repository
    return {"lvbench": load_dataset(source, split="train")}
