"""The paper's tables: which tasks, how many frames, which columns, which numbers, which judge."""

from __future__ import annotations

from typing import NamedTuple

UNNAMED = "a GPT the paper does not name"
Numbers = dict[str, float]


class PaperRow(NamedTuple):
    """One row of DynFocus in the paper."""

    label: str
    numbers: Numbers
    judge: str | None = None
    frames: int | None = None


class Table(NamedTuple):
    """One table of the paper, as lmms-eval can fill it."""

    name: str
    title: str
    tasks: tuple[str, ...]
    columns: tuple[str, ...]
    paper: tuple[PaperRow, ...]
    frames: tuple[int | None, ...] = (None,)
    """pictures per video of each variant; None: one per second"""
    judged: bool = False


def _row(
    label: str, columns: tuple[str, ...], *numbers: float, judge: str | None = None, frames: int | None = None
) -> PaperRow:
    return PaperRow(label, dict(zip(columns, numbers, strict=True)), judge, frames)


OPEN = ("MSVD-QA Acc", "MSVD-QA Score", "MSRVTT-QA Acc", "MSRVTT-QA Score", "ANet-QA Acc", "ANet-QA Score")
VCG = ("CI", "DO", "CU", "TU", "CO", "Avg.")
LVBENCH = ("ER", "EU", "KIR", "TG", "Rea", "Sum", "Overall")
MLVU = ("TR", "AR", "VS", "NQA", "ER", "PQA", "SSC", "AO", "AC", "M-Avg", "G-Avg")
VIDEOMME = tuple(
    f"{part}{subs}" for part in ("Short", "Medium", "Long", "Overall") for subs in (" w/o subs", " w/ subs")
)
HALLUCER_KINDS = ("Object-Relation", "Temporal", "Semantic Detail", "Factual", "Non-Factual")
HALLUCER = (*(f"{kind} {part}" for kind in HALLUCER_KINDS for part in ("Basic", "Halluc.", "Final")), "Overall")

TABLES = (
    Table(
        "1",
        "zero-shot video question answering",
        ("msvd_qa", "msrvtt_qa", "activitynetqa"),
        OPEN,
        (
            _row("DynFocus (Turbo-16k)", OPEN, 72.3, 3.9, 59.8, 3.4, 49.4, 3.4, judge="GPT Turbo-16k"),
            _row("DynFocus (Turbo-0613)", OPEN, 74.8, 4.0, 62.8, 3.6, 50.3, 3.4, judge="GPT Turbo-0613"),
        ),
        judged=True,
    ),
    Table(
        "2",
        "VCG-Bench",
        ("videochatgpt",),
        VCG,
        (
            _row("DynFocus", VCG, 3.12, 3.11, 3.68, 2.57, 2.74, 3.05, judge=UNNAMED),
            _row("DynFocus†", VCG, 3.27, 3.15, 3.78, 2.86, 2.78, 3.17, judge=UNNAMED),
        ),
        judged=True,
    ),
    Table(
        "3",
        "LVBench",
        ("lvbench",),
        LVBENCH,
        (
            _row("DynFocus† (1)", LVBENCH, 27.9, 30.3, 31.2, 25.4, 31.8, 32.8, 30.4, frames=200),
            _row("DynFocus† (2)", LVBENCH, 28.6, 31.8, 32.6, 27.2, 35.3, 34.4, 31.8, frames=200),
            _row("DynFocus† (3)", LVBENCH, 29.9, 33.7, 35.1, 25.5, 33.3, 26.2, 32.6, frames=200),
            _row("DynFocus† (4)", LVBENCH, 31.8, 33.5, 32.6, 28.7, 34.8, 31.3, 32.9, frames=200),
            _row("DynFocus† (5)", LVBENCH, 31.1, 33.5, 31.6, 28.6, 33.8, 24.1, 31.8, frames=200),
        ),
        frames=(200,),
    ),
    Table(
        "4",
        "MLVU",
        ("mlvu_dev", "mlvu_vs", "mlvu_ssc"),
        MLVU,
        (
            _row(
                "DynFocus",
                MLVU,
                75.4,
                60.5,
                3.36,
                50.6,
                42.3,
                50.5,
                5.34,
                26.2,
                32.6,
                48.3,
                4.35,
                judge=UNNAMED,
                frames=16,
            ),
            _row(
                "DynFocus",
                MLVU,
                76.2,
                60.9,
                3.36,
                55.5,
                41.5,
                54.0,
                5.39,
                26.8,
                32.8,
                49.6,
                4.38,
                judge=UNNAMED,
                frames=32,
            ),
        ),
        frames=(16, 32),
        judged=True,
    ),
    Table(
        "5",
        "Video-MME",
        ("videomme", "videomme_w_subtitle"),
        VIDEOMME,
        (_row("DynFocus", VIDEOMME, 50.9, 53.7, 43.7, 46.0, 37.7, 43.6, 44.1, 47.8, frames=16),),
        frames=(16,),
    ),
    Table(
        "14",
        "VideoHallucer",
        ("videohallucer",),
        HALLUCER,
        (
            PaperRow(
                "DynFocus",
                dict(
                    zip(HALLUCER, (86.5, 56.0, 48.0, 86.0, 21.5, 18.5, 92.0, 34.0, 29.0, 96.5, 9.0, 7.5), strict=False)
                ),
            ),
            _row(
                "DynFocus†",
                HALLUCER,
                *(88.0, 62.0, 52.5, 87.0, 37.5, 33.5, 91.5, 42.0, 38.5, 98.5, 15.0, 13.0, 96.5, 40.0, 38.5, 35.1),
            ),
        ),
    ),
)


def table(name: str) -> Table:
    """A table by its number.

    Raises:
        ValueError: one that no task fills.
    """
    for found in TABLES:
        if found.name == name:
            return found
    raise ValueError(f"eval: expected a table among {', '.join(t.name for t in TABLES)}, got {name!r}.")
