"""`python -m dynfocus_reference.planted.page`: docs/results/planted.md and its figure, from the result files alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dynfocus_reference.planted.anew import anew_table
from dynfocus_reference.planted.figure import figure
from dynfocus_reference.planted.paper_tables import paper_tables
from dynfocus_reference.planted.redundancy import redundancy_table
from dynfocus_reference.planted.results import Result, read_results
from dynfocus_reference.planted.settings import SETTINGS, SIZES
from dynfocus_reference.planted.tables import Table, main_table, question_table, targets
from dynfocus_video.atomic import replace_together

MAIN = ("main", "gradients", "ceiling")
PAGE, FIGURE = "planted.md", "planted.svg"


def page(results: Path) -> dict[str, str]:
    """The page and its figure, by file name."""
    found = read_results(results)
    table, asked = _of(found, *MAIN), _of(found, "by_question")
    parts = [
        _introduction(),
        targets(table, asked),
        main_table(table),
        question_table(asked),
        anew_table(table, asked, _of(found, "anew"), _of(found, "anew_by_question")),
        _hours(found),
        redundancy_table(results),
    ]
    parts.append(paper_tables(found))
    return {PAGE: "\n".join(part for part in parts if part), FIGURE: figure(table)}


def _of(results: Sequence[Result], *settings: str) -> Table:
    return Table([result for result in results if result.setting in settings])


def _hours(found: Sequence[Result]) -> str:
    """What training cost after stage 1."""
    runs = [result for result in found if result.arm != "shuffled video"]
    main = sum(result.seconds for result in runs if result.setting in SIZES["main"]) / 60
    whole = sum(result.seconds for result in runs if result.setting in SIZES["full"]) / 60
    return (
        f"Stage 2 took {main:.0f} minutes of one core for all runs of `make study` and {whole:.0f} for those of "
        "`make study-full`; two processes share them. Looking, asking, Table 7's stage 1 and the sweeps come on top. "
        "The machine was busy with other things.\n"
    )


def _introduction() -> str:
    text = (Path(__file__).parent / "page.md").read_text(encoding="utf-8")
    main = SETTINGS["main"]
    return text.format(
        steps=main.schedule.steps,
        steps_by_question=SETTINGS["by_question"].schedule.steps,
        batch=main.schedule.batch,
        taught=", ".join(main.taught).replace("_", " "),
        seeds=len(main.seeds),
        stories=main.stories,
        test_stories=main.test_stories,
        length=main.length,
    )


def write_page(results: Path, folder: Path) -> None:
    """Both files, together."""
    texts = page(results)

    def writer(text: str):  # type: ignore[no-untyped-def]
        return lambda part: part.write_text(text, encoding="utf-8")

    replace_together({folder / name: writer(text) for name, text in texts.items()})


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m dynfocus_reference.planted.page", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("docs/results/planted"))
    options = parser.parse_args(arguments)
    write_page(options.results, options.results.parent)


if __name__ == "__main__":
    main()
