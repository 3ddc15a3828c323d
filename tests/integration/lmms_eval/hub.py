"""A few rows of every benchmark in the layout of its hub repository, with generated videos, and a judge next door."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.integration.video.writing import write_video

SUBTITLE = '1\n00:00:00,000 --> 00:00:02,000\n<font color="white" size=".72c">{}</font>\n\n'
LVBENCH = (
    "entity recognition",
    "event understanding",
    "key information retrieval",
    "temporal grounding",
    "reasoning",
    "summarization",
)
MLVU = ("topic_reasoning", "anomaly_reco", "needle", "ego", "plotQA", "order", "count")
HALLUCER = ("object_relation", "temporal", "semantic_detail", "external_factual", "external_nonfactual")
OPTIONS = "\n(A) one\n(B) two\n(C) three\n(D) four"


def write_all(work: Path, home: Path) -> None:
    """Annotations below the working directory, videos below $HF_HOME; our own sets wholly below $HF_HOME."""
    _activitynet(work, home)
    _videochatgpt(work, home)
    _lvbench(work, home)
    _mlvu(work, home)
    _videomme(work, home)
    _open_qa(home)
    _mlvu_generation(home)
    _videohallucer(home)


def clip(path: Path) -> Path:
    """Three seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, 30)


def rows(path: Path, entries: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _activitynet(work: Path, home: Path) -> None:
    common = {"video_name": "one", "type": "3"}
    asked = [{**common, "question": f"is it {n}", "answer": n, "question_id": n} for n in ("yes", "no")]
    rows(work / "lmms-eval/ActivityNetQA/test.jsonl", asked)
    clip(home / "activitynetqa/all_test/v_one.mp4")


def _videochatgpt(work: Path, home: Path) -> None:
    folder = work / "lmms-eval/VideoChatGPT"
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}.jsonl\n"
        for name in ("Generic", "Temporal", "Consistency")
    )
    plain = {"video_name": "two", "question": "what?", "answer": "this", "question_1": "None", "question_2": "None"}
    for name in ("Generic", "Temporal"):
        rows(folder / f"{name}.jsonl", [plain, {**plain, "question": "when?"}])
    twice = [{**plain, "question_1": "what?"}, {**plain, "question_2": "which?"}]
    rows(folder / "Consistency.jsonl", twice)
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    clip(home / "videochatgpt/Test_Videos/two.mp4")


def _lvbench(work: Path, home: Path) -> None:
    entries = [
        {"question": kind + OPTIONS, "answer": "A", "question_type": [kind], "video_path": "three.mp4", "uid": str(n)}
        for n, kind in enumerate(LVBENCH)
    ]
    rows(work / "lmms-eval/LVBench/train.jsonl", entries)
    clip(home / "lvbench/three.mp4")


def _mlvu(work: Path, home: Path) -> None:
    entries = [{"video_name": "four.mp4", "question": k + OPTIONS, "answer": "A", "task_type": k} for k in MLVU]
    rows(work / "sy1998/MLVU_dev/test.jsonl", entries)
    clip(home / "mlvu/four.mp4")


def _videomme(work: Path, home: Path) -> None:
    entries = [
        {
            "videoID": "five",
            "question_id": f"{duration}-1",
            "question": "Which?",
            "options": ["A. one", "B. two", "C. three", "D. four"],
            "answer": "A",
            "duration": duration,
            "domain": "Knowledge",
            "sub_category": "Geography",
            "task_type": "Counting Problem",
        }
        for duration in ("short", "medium", "long")
    ]
    rows(work / "lmms-eval/Video-MME/test.jsonl", entries)
    clip(home / "videomme/data/five.mp4")
    (home / "videomme/subtitle").mkdir()
    (home / "videomme/subtitle/five.srt").write_text(SUBTITLE.format("hello there") * 2)


def _open_qa(home: Path) -> None:
    for name in ("msvd_qa", "msrvtt_qa"):
        asked = [{"video_name": "six", "question": "what is it?", "question_id": n} for n in ("yes", "no")]
        dump(home / name / "test_q.json", asked)
        dump(home / name / "test_a.json", [{"answer": n, "question_id": n, "type": 1} for n in ("yes", "no")])
        clip(home / name / "videos/six.avi")


def _mlvu_generation(home: Path) -> None:
    folder = home / "mlvu_generation"
    asked = {"video": "seven.mp4", "question": "Summarize.", "answer": "It is this."}
    dump(folder / "json/9_summary.json", [asked])
    dump(folder / "json/8_sub_scene.json", [{**asked, "scoring_points": ["this", "that"]}])
    for name in ("9_summary", "8_sub_scene"):
        clip(folder / "video" / name / "seven.mp4")


def _videohallucer(home: Path) -> None:
    for kind in HALLUCER:
        folder = home / "videohallucer" / kind
        asked = {"video": "eight.mp4", "question": f"Is there a {kind}?"}
        pair = {"basic": {**asked, "answer": "yes"}, "hallucination": {**asked, "answer": "no"}, "type": "x"}
        dump(folder / f"{kind}.json", [pair, pair])
        clip(folder / "videos/eight.mp4")


@contextmanager
def judge() -> Iterator[tuple[str, list[str]]]:
    """A stand-in that says what each of the judges' prompts wants to hear; its address, and the models asked for."""
    asked: list[str] = []

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body["model"])
            said = "\n".join(message["content"] for message in body["messages"])
            answer = json.dumps({"model": body["model"], "choices": [{"message": {"content": verdict(said)}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/chat/completions", asked
    finally:
        server.shutdown()
        server.server_close()


def verdict(prompt: str) -> str:
    """Yes where the correct answer is yes; fixed numbers elsewhere."""
    if "score_completeness" in prompt:
        return "Because. {'score_completeness': 2, 'score_reliability': 4}"
    if "score_accuracy" in prompt:
        return "Because. {'score_accuracy': 3.5, 'score_relevance': 5}"
    if "'pred'" in prompt:
        return "{'pred': 'yes', 'score': 5}" if "Correct Answer: yes" in prompt else "{'pred': 'no', 'score': 1}"
    return "{'score': 4}"
