"""What is run for which table: arms, seeds, stories and steps."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynfocus_reference.planted.arms import ABLATIONS, ARMS, Arm
from dynfocus_reference.planted.questions import KINDS, Kind
from dynfocus_reference.planted.training import Schedule

FRESH, FRESHER = range(2, 7), range(7, 12)
"""seeds of comparisons; 0 and 1 were used while the recipe took shape, `FRESH` when by-question tasks got more steps"""
STAGE_2 = Schedule(steps=160, batch=24, rate=1e-3, score_rate=5e-3)
STAGE_2_BY_QUESTION = STAGE_2._replace(steps=320, score_rate=1e-2)
TAUGHT: tuple[Kind, ...] = ("salience", "by_question", "detail", "order")


@dataclass(frozen=True, eq=False)
class Setting:
    """One table.

    Args:
        name: Of the table and of its folder of results.
        arms: Its rows.
        seeds: Of the scorer's weights, the stories and the order of samples.
        schedule: Of stage 2.
        stories, samples: To learn from.
        test_stories: To be asked about, one question of each kind.
        length: Frames of a story.
        taught: Kinds of questions to learn from, in turn.
        kinds: Of questions that are asked at the end.
        anew: Begins with weights that the pretraining command has made in the cache, not with those of the package.
    """

    name: str
    arms: dict[str, Arm] = field(default_factory=lambda: ARMS)
    seeds: range = FRESH
    schedule: Schedule = STAGE_2
    stories: int = 300
    samples: int = 2400
    test_stories: int = 60
    length: int = 32
    taught: tuple[Kind, ...] = TAUGHT
    kinds: tuple[Kind, ...] = KINDS
    anew: bool = False


def _some(*names: str) -> dict[str, Arm]:
    return {name: ARMS[name] for name in names}


def _rows(*names: str) -> dict[str, Arm]:
    return {name: ABLATIONS[name] for name in names}


QUICK = ("dynfocus", "frozen scorer", "uniform frames", "mean pooling", "oracle frames")
AGAIN = ("random frames", "cones alone", "rods alone", "token merging", "event merging", "q-former queries")
GRADIENTS = ("straight-through", "gumbel", "diagonal gradient", "importance", "question only")
CEILING = ("all tokens",)
ELSEWHERE = ("question scorer", *GRADIENTS, *CEILING)
ASKED: tuple[Kind, ...] = ("by_question",)
BY_QUESTION = ("question scorer", *QUICK)

SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("quick", _some(*QUICK), seeds=FRESH[:2], stories=200, samples=2000, test_stories=50),
        Setting("main", {name: arm for name, arm in ARMS.items() if name not in ELSEWHERE}),
        Setting(
            "by_question",
            _some(*BY_QUESTION, "random frames", "event merging"),
            seeds=FRESHER,
            schedule=STAGE_2_BY_QUESTION,
            taught=ASKED,
            kinds=ASKED,
        ),
        Setting("gradients", _some(*GRADIENTS)),
        Setting("ceiling", _some(*CEILING)),
        Setting("anew", _some(*QUICK, *AGAIN), anew=True),
        Setting(
            "anew_by_question",
            _some(*BY_QUESTION),
            seeds=FRESHER,
            schedule=STAGE_2_BY_QUESTION,
            taught=ASKED,
            kinds=ASKED,
            anew=True,
        ),
        Setting("table6", _rows("(0, 256)", "(2, 256)", "(2, 2)", "(2, 0)")),
        Setting("table7", _rows("oox → ooo", "xxx → xoo", "oox → xoo", "xox → ooo")),
        Setting("table11", _rows("k-means", "weighted k-means")),
        Setting("table12", _rows("cross-attention", "concatenation")),
        Setting("table13", _rows("videos, longer", "more videos", "videos and images", "videos and negatives")),
        Setting("tableB3", _rows("rods on patches", "one pooled row", "uniform weights")),
    )
}
SIZES = {
    "quick": ("quick",),
    "main": ("main", "by_question", "gradients", "ceiling"),
    "anew": ("anew", "anew_by_question"),
    "full": tuple(name for name, setting in SETTINGS.items() if name != "quick" and not setting.anew),
}
"""the settings of `make study-quick`, `make study`, `make study-anew` and `make study-full`"""
