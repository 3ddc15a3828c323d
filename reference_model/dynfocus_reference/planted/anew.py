"""The comparison with weights that the pretraining command has made anew."""

from __future__ import annotations

from dynfocus_reference.planted.tables import Table, claims, rows, shown

KINDS = ("salience", "detail", "order", "motion")
HEAD = """## With weights made anew

Everything above begins with the weights of the package. `make study-anew` makes others from nothing, in about twelve
minutes of one core, and repeats the comparison with them; of the main comparison it leaves out other gradients, all
tokens and the controls.
"""
BESIDE = """The package's weights on the left, those made anew on the right. Here the language model has read each
rival that pools in 75 steps of pretraining only: what the rows say of such rivals is better read on the left.
"""


def anew_table(table: Table, asked: Table, anew: Table, anew_asked: Table) -> str:
    """Accuracies and recall side by side.

    Args:
        table, asked: The main comparison, and that on by-question tasks, with the package's weights.
        anew, anew_asked: With those made anew.
    """
    if not anew.arms and not anew_asked.arms:
        return f"{HEAD}\nNot run yet.\n"
    body = [[arm, *_cells(table, anew, arm, KINDS), str(len(anew.of(arm)))] for arm in anew.arms]
    told = [HEAD, claims(anew, anew_asked), BESIDE, rows(("", *KINDS, "recall, salience", "seeds"), body)]
    body = [
        [arm, *_cells(asked, anew_asked, arm, ("by_question",)), str(len(anew_asked.of(arm)))]
        for arm in anew_asked.arms
    ]
    return "\n".join([*told, rows(("by question", "accuracy", "recall", "seeds"), body)])


def _cells(table: Table, anew: Table, arm: str, kinds: tuple[str, ...]) -> list[str]:
    pairs = [(table.accuracy(arm, kind), anew.accuracy(arm, kind)) for kind in kinds]
    pairs.append((table.recall(arm, kinds[0]), anew.recall(arm, kinds[0])))
    return [f"{shown(left)}, {shown(right)}" if left or right else "–" for left, right in pairs]
