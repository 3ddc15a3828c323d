"""MSVD-QA and MSRVTT-QA: short open answers, judged with lmms-eval's own prompt for ActivityNet-QA.

The layout is that of Video-ChatGPT's zero-shot evaluation: `test_q.json`, `test_a.json` and `videos/` in
`$HF_HOME/msvd_qa` and `$HF_HOME/msrvtt_qa`.
"""

from __future__ import annotations

from typing import Any

from dynfocus_lmms_eval.judge import judge_name
from dynfocus_lmms_eval.tasks.folders import as_rows, find_video, home, read_json, text_of

LAYOUT = "test_q.json (video_name, question, question_id), test_a.json (answer, question_id) and videos/ in $HF_HOME/{}"


def msvd_rows(_: Any) -> Any:
    """MSVD-QA's questions."""
    return rows("msvd_qa")


def msrvtt_rows(_: Any) -> Any:
    """MSRVTT-QA's questions."""
    return rows("msrvtt_qa")


def rows(name: str) -> Any:
    """Questions beside their answers.

    Raises:
        FileNotFoundError: no annotations.
        ValueError: a question without an answer.
    """
    folder, layout = home() / name, LAYOUT.format(name)
    answers = {str(entry["question_id"]): entry for entry in read_json(folder / "test_a.json", layout)}
    found = []
    for asked in read_json(folder / "test_q.json", layout):
        answer = answers.get(str(asked["question_id"]))
        if answer is None:
            raise ValueError(f"{name}: expected an answer to question {asked['question_id']!r}, got none.")
        found.append(
            {
                "set": name,
                "video_name": asked["video_name"],
                "question_id": str(asked["question_id"]),
                "question": asked["question"],
                "answer": answer["answer"],
                "type": str(answer.get("type", "")),
            }
        )
    return as_rows(found)


def video(document: dict[str, Any]) -> list[str]:
    """The file."""
    return [find_video(home() / document["set"] / "videos", document["video_name"])]


def text(document: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """The question, as ActivityNet-QA's task writes it."""
    question = document["question"].strip()
    return text_of(question.capitalize() + ("" if question.endswith("?") else "?"), lmms_eval_specific_kwargs)


def score(document: dict[str, Any], answers: list[str]) -> dict[str, Any]:
    """The judge's verdict (yes or no) and score (0 to 5), and the judge's name."""
    from lmms_eval.tasks.activitynetqa.utils import activitynetqa_process_results

    judged = activitynetqa_process_results(document, answers)
    return {metric: {**verdict, "judge": judge_name()} for metric, verdict in judged.items()}
