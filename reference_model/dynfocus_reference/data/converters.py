"""The paper's training sets, from the files their authors publish to LLaVA-format records.

**Source**: Sec. 4.1 and C.2. Each converter reads one annotation file and yields records; paths are relative to the
folder that holds the set's images or videos.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from dynfocus_connector.saving import replace_file
from dynfocus_reference.data.records import MARKER, JsonLines

Records = Iterator[dict[str, Any]]
CAPTION_REQUEST = "Describe the video concisely."
LETTERS = "ABCDEFGHIJ"
DURATION = re.compile(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?")
STRANGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, csv.Error)
"""What a file of another form leads to."""


def _talk(pairs: Iterable[tuple[str, str]], shown: bool = True) -> list[dict[str, str]]:
    """Questions and answers as turns, the marker in front of the first question."""
    turns: list[dict[str, str]] = []
    for number, (question, answer) in enumerate(pairs):
        mark = f"{MARKER}\n" if shown and number == 0 else ""
        turns += [{"from": "human", "value": mark + question.strip()}, {"from": "gpt", "value": answer.strip()}]
    return turns


def _choices(question: str, options: Iterable[str]) -> str:
    """A question with lettered options."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question.strip(), *lines, "Answer with the option's letter from the given choices directly."])


def llava(path: str) -> Records:
    """LLaVA-CC3M-Pretrain-595K (``chat.json``) and LLaVA-665K (``llava_v1_5_mix665k.json``): already in the format."""
    for number, raw in enumerate(JsonLines(path)):
        shown = {"image": raw["image"]} if raw.get("image") else {}
        yield {"id": str(raw.get("id", number)), **shown, "conversations": raw["conversations"]}


def webvid_captions(path: str) -> Records:
    """WebVid's ``results_2M_train.csv``: videoid, page_dir, duration and the caption, name."""
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            video = f"{row['page_dir']}/{row['videoid']}.mp4" if row.get("page_dir") else f"{row['videoid']}.mp4"
            record = {"id": row["videoid"], "video": video, "conversations": _talk([(CAPTION_REQUEST, row["name"])])}
            yield record | _seconds(row.get("duration"))


def _seconds(written: str | None) -> dict[str, float]:
    """A duration of WebVid's form PT00H00M12S; zero parts may be left out."""
    if not written or not written.startswith("PT"):
        return {}
    found = DURATION.fullmatch(written)
    if found is None:
        raise ValueError(f"a duration {written!r} instead of PT00H00M12S")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return {"duration": 3600 * hours + 60 * minutes + seconds}


def science_qa(path: str) -> Records:
    """ScienceQA's ``problems.json``, the training split; pictures lie in ``train/ID/image.png``."""
    for key, problem in json.loads(Path(path).read_text(encoding="utf-8")).items():
        if problem["split"] != "train":
            continue
        shown = {"image": f"train/{key}/{problem['image']}"} if problem.get("image") else {}
        context = f"Context: {problem['hint'].strip()}\n" if problem.get("hint") else ""
        question = context + _choices(problem["question"], problem["choices"])
        talk = _talk([(question, LETTERS[problem["answer"]])], shown=bool(shown))
        yield {"id": f"scienceqa-{key}", **shown, "conversations": talk}


def video_chatgpt(path: str) -> Records:
    """VideoChatGPT-100K's ``VideoInstruct100K.json``: q, a, video_id (ActivityNet)."""
    for number, raw in enumerate(JsonLines(path)):
        talk = _talk([(raw["q"], raw["a"])])
        yield {"id": f"{raw['video_id']}-{number}", "video": f"{raw['video_id']}.mp4", "conversations": talk}


def webvid_qa(path: str) -> Records:
    """WebVid-QA as VideoChat2-IT gives it: a video and a list QA of i (instruction), q and a."""
    for number, raw in enumerate(JsonLines(path)):
        pairs = [(f"{one.get('i', '')} {one['q']}", one["a"]) for one in raw["QA"]]
        yield {"id": f"webvid-qa-{number}", "video": raw["video"], "conversations": _talk(pairs)}


def next_qa(path: str) -> Records:
    """NExT-QA's ``train.csv`` of the multiple-choice task: a0 to a4, answer is a number.

    Videos lie under VidOR's paths; with ``map_vid_vidorID.json`` beside the file those are used.
    """
    beside = Path(path).with_name("map_vid_vidorID.json")
    places = json.loads(beside.read_text()) if beside.is_file() else {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            question = _choices(row["question"], [row[f"a{i}"] for i in range(5)])
            video = f"{places.get(row['video'], row['video'])}.mp4"
            talk = _talk([(question, LETTERS[int(row["answer"])])])
            yield {"id": f"{row['video']}-{row['qid']}", "video": video, "conversations": talk}


def clevrer(path: str) -> Records:
    """CLEVRER's ``train.json``: open questions have an answer, the others choices marked correct or wrong."""
    for scene in JsonLines(path):
        for number, one in enumerate(scene["questions"]):
            question, answer = one["question"], one.get("answer")
            if answer is None:
                right = [LETTERS[i] for i, choice in enumerate(one["choices"]) if choice["answer"] == "correct"]
                question = _choices(question, [choice["choice"] for choice in one["choices"]])
                answer = ", ".join(right) or "None"
            talk = _talk([(question, answer)])
            name = f"{Path(scene['video_filename']).stem}-{number}"
            yield {"id": name, "video": scene["video_filename"], "conversations": talk}


CONVERTERS: dict[str, Callable[[str], Records]] = {
    "llava-cc3m": llava,
    "webvid-captions": webvid_captions,
    "llava-665k": llava,
    "scienceqa": science_qa,
    "videochatgpt-100k": video_chatgpt,
    "webvid-qa": webvid_qa,
    "next-qa": next_qa,
    "clevrer": clevrer,
}


def write_records(records: Records, path: str) -> int:
    """Write JSON lines; how many."""
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


def _expected(records: Records, name: str, path: str) -> Records:
    """The same records; an error says of which file, and how far it was good."""
    count = 0
    try:
        for record in records:
            yield record
            count += 1
    except STRANGE as error:
        told = f"a record without {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"convert-data: expected {path!r} to be {name} as its authors publish it, got {told} (after {count} "
            f"good samples)."
        ) from error


def run(arguments: Any) -> int:
    """Write one set as JSON lines; whole or not at all.

    Raises:
        ValueError: no file of this set, or a record without one of its fields.
    """
    output, counts = Path(arguments.output), []
    records = _expected(CONVERTERS[arguments.set](arguments.input), arguments.set, arguments.input)
    replace_file(output, lambda part: counts.append(write_records(records, part)))
    print(f"{counts[0]} samples written to {output}", file=sys.stderr)
    return 0
