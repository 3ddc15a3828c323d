"""Tables of the study's page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dynfocus_reference.planted.intervals import Interval
from dynfocus_reference.planted.questions import Kind
from dynfocus_reference.planted.results import Result
from dynfocus_reference.planted.settings import SETTINGS

EVIDENCE: tuple[Kind, ...] = ("salience", "by_question", "detail")
ORDERED = (
    "dynfocus",
    "question scorer",
    "straight-through",
    "gumbel",
    "diagonal gradient",
    "frozen scorer",
    "importance",
    "uniform frames",
    "random frames",
    "oracle frames",
    "cones alone",
    "rods alone",
    "mean pooling",
    "token merging",
    "event merging",
    "q-former queries",
    "all tokens",
    "question only",
    "shuffled video",
)
POOLED = ("mean pooling", "token merging", "event merging", "q-former queries", "rods alone")


class Table:
    """Results of one setting, by arm."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.results = list(results)
        self.arms = [arm for arm in ORDERED if any(result.arm == arm for result in self.results)]
        self.arms += sorted({result.arm for result in self.results} - set(self.arms))

    def of(self, arm: str) -> list[Result]:
        """An arm's results, seed by seed."""
        return sorted((result for result in self.results if result.arm == arm), key=lambda result: result.seed)

    def interval(self, arm: str, value: Callable[[Result], float | None]) -> Interval | None:
        """Of a value over the seeds; None where there is no result or no such value."""
        values = [found for result in self.of(arm) if (found := value(result)) is not None]
        return Interval.over(values) if values else None

    def accuracy(self, arm: str, kind: str) -> Interval | None:
        """Of one kind of question."""
        return self.interval(arm, lambda result: result.kinds.get(kind, {}).get("accuracy"))

    def recall(self, arm: str, kind: str) -> Interval | None:
        """Of the evidence, by the frames in focus."""
        return self.interval(arm, lambda result: result.kinds.get(kind, {}).get("recall"))

    def closed(self, arm: str) -> Interval | None:
        """(arm − uniform) / (oracle − uniform) over the kinds with evidence, seed by seed."""
        ends = {name: {r.seed: _mean(r) for r in self.of(name)} for name in ("uniform frames", "oracle frames")}

        def gap(result: Result) -> float | None:
            low, high = (ends[name].get(result.seed) for name in ("uniform frames", "oracle frames"))
            if low is None or high is None or high <= low:
                return None
            return (_mean(result) - low) / (high - low)

        return self.interval(arm, gap)


def _mean(result: Result) -> float:
    return sum(float(result.kinds[kind]["accuracy"] or 0) for kind in EVIDENCE) / len(EVIDENCE)


def shown(interval: Interval | None) -> str:
    """A cell; a dash where there is nothing."""
    return "–" if interval is None else str(interval)


def rows(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table of Markdown; all columns but the first to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "--:|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(line) + " |" for line in body)]) + "\n"


def main_table(table: Table) -> str:
    """Accuracies, then what was in focus and what it cost."""
    kinds = ("salience", "by_question", "detail", "order", "count", "motion")
    accuracies = [[arm, *(shown(table.accuracy(arm, kind)) for kind in kinds)] for arm in table.arms]
    focus = []
    for arm in table.arms:
        precision = table.interval(arm, lambda result: result.kinds.get("salience", {}).get("precision"))
        tokens = table.interval(arm, lambda result: result.tokens)
        seconds = table.interval(arm, lambda result: result.seconds)
        focus.append(
            [
                arm,
                shown(table.recall(arm, "salience")),
                shown(table.recall(arm, "by_question")),
                shown(precision),
                shown(table.closed(arm)),
                "–" if tokens is None else f"{tokens.mean:.0f}",
                "–" if seconds is None else f"{seconds.mean:.0f}",
                str(len(table.of(arm))),
            ]
        )
    header = (
        "",
        "recall, salience",
        "recall, by question",
        "precision, salience",
        "gap closed",
        "tokens",
        "seconds",
        "seeds",
    )
    return "\n".join(
        [
            "## The main comparison\n",
            "Share of questions answered right in every rotation of the options; mean and 95 % interval over seeds.\n",
            rows(("", *(kind.replace("_", " ") for kind in kinds)), accuracies),
            "What was in focus, how much of the way from uniform to oracle frames an arm goes (mean of the first three "
            "kinds), visual tokens per video and seconds of training.\n",
            rows(header, focus),
            "![Accuracy and recall of every arm](planted.svg)\n",
        ]
    )


def question_table(table: Table) -> str:
    """The comparison on by-question tasks alone."""
    body = []
    for arm in table.arms:
        precision = table.interval(arm, lambda result: result.kinds["by_question"]["precision"])
        cells = [table.accuracy(arm, "by_question"), table.recall(arm, "by_question"), precision]
        body.append([arm, *(shown(cell) for cell in cells), str(len(table.of(arm)))])
    return "\n".join(
        [
            "## By-question tasks alone\n",
            f"Trained and asked on by-question tasks only, for {SETTINGS['by_question'].schedule.steps} steps. Four "
            "boards take turns to be the evidence and K is 3, so that a scorer that sees no text finds it in three of "
            "four cases at best.\n",
            rows(("", "accuracy", "recall", "precision", "seeds"), body),
            _seed_by_seed(table),
        ]
    )


def _seed_by_seed(table: Table) -> str:
    """What a mean hides: a run that has not found the way."""
    recalls = [f"{result.kinds['by_question']['recall'] or 0:.2f}" for result in table.of("question scorer")]
    return f"Recall of the question scorer, seed by seed: {', '.join(recalls)}.\n" if recalls else ""


def targets(table: Table, asked: Table) -> str:
    """What the study set out to show, and whether it did.

    Args:
        table: The main comparison.
        asked: The one on by-question tasks alone.
    """
    return "\n".join(
        [
            "## What it set out to show\n",
            "“Yes” means a recall that is reached, or 95 % intervals that do not touch.\n",
            claims(table, asked),
        ]
    )


def claims(table: Table, asked: Table) -> str:
    """A table of claims, numbers and verdicts; `targets` says of what."""
    end_to_end = "end-to-end selection finds the evidence: recall ≥ 0.95 on salience questions, K/L = 0.2"
    by_question = "the question-conditioned scorer finds the evidence: recall ≥ 0.95 on by-question tasks"
    rivals = ("uniform frames", "random frames", "frozen scorer", *POOLED)
    lines = [_threshold(end_to_end, table.recall("dynfocus", "salience"))]
    for rival in rivals:
        claim = f"it answers salience questions better than {rival}"
        lines.append(_above(table, claim, "dynfocus", rival, "salience"))
    lines.append(_threshold(by_question, asked.recall("question scorer", "by_question")))
    for rival in (arm for arm in asked.arms if arm not in ("question scorer", "oracle frames", "shuffled video")):
        claim = f"it answers by-question tasks better than {rival}"
        lines.append(_above(asked, claim, "question scorer", rival, "by_question"))
    for kind in ("order", "count", "motion"):
        lines.append(_above(table, f"cones + rods beat cones alone on {kind}", "dynfocus", "cones alone", kind))
    lines.append(_above(table, "cones + rods beat rods alone on detail", "dynfocus", "rods alone", "detail"))
    return rows(("claim", "numbers", "shown"), lines)


def _threshold(claim: str, found: Interval | None, least: float = 0.95) -> list[str]:
    if found is None:
        return [claim, "–", "not run yet"]
    low = found.mean - found.half
    if found.mean < least:
        verdict = f"no, {least - found.mean:.2f} short"
    elif found.seeds == 1:
        verdict = "one seed only: no interval"
    else:
        verdict = "yes" if low >= least else f"on average; the interval reaches down to {low:.2f}"
    return [claim, str(found), verdict]


def _above(table: Table, claim: str, ours: str, theirs: str, kind: str) -> list[str]:
    mine, other = table.accuracy(ours, kind), table.accuracy(theirs, kind)
    if mine is None or other is None:
        return [claim, "–", "not run yet"]
    if min(mine.seeds, other.seeds) == 1:
        verdict = "one seed only: no interval"
    elif mine.above(other):
        verdict = "yes"
    elif other.above(mine):
        verdict = f"no: the opposite, by {other.mean - mine.mean:.2f}"
    else:
        verdict = f"no: a difference of {mine.mean - other.mean:+.2f} within the intervals"
    return [claim, f"{mine} against {other}", verdict]
