"""The code of docs/guides/llava.md runs, with the stand-ins in the place of the code bases."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from dynfocus_connector import DynFocusConnector
from tests.integration.llava.common import config
from tests.integration.llava.llama_vid_host import LlamaVid
from tests.integration.llava.llava_next_host import LlavaNext
from tests.integration.llava.models import encode, next_host, vid_host
from tests.integration.llava.prompts import Video, batch

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "llava.md"
NEXT, VID, OWN = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
STANDS_FOR = {
    "llava.model.language_model.llava_qwen": ("LlavaQwenForCausalLM", LlavaNext),
    "llamavid.model.language_model.llava_llama_vid": ("LlavaLlamaAttForCausalLM", LlamaVid),
}


@pytest.fixture(autouse=True)
def code_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    for path, (name, kind) in STANDS_FOR.items():
        for parent in (path.rsplit(".", depth)[0] for depth in range(path.count("."), -1, -1)):
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        setattr(sys.modules[path], name, kind)


def run(code: str, **names: Any) -> dict[str, Any]:
    exec(compile(code, str(GUIDE), "exec"), names)
    return names


def lines(code: str) -> list[str]:
    return [line for line in code.splitlines() if line.strip()]


@torch.no_grad()
def test_llava_next() -> None:
    model = next_host()
    inputs = batch([Video(200, 1), [21, 22]])
    before = model(**inputs).logits.shape[1]
    model = run(NEXT, model=model)["model"]
    assert before > model(**inputs).logits.shape[1] > 1
    assert len(lines(NEXT)) == 5
    assert model.dynfocus_report[0].tokens_after <= 2048


@torch.no_grad()
def test_llama_vid() -> None:
    model = run(VID, model=vid_host())["model"]
    (tokens,) = encode(model, [Video(50, 1)], [["what"]])
    assert len(tokens[0]) <= 2048
    assert model.dynfocus_report[0].tokens_before == 3200
    assert len(lines(VID)) == 5


def test_own_connector(tmp_path: Path) -> None:
    names = run(NEXT, model=next_host())
    kind = run(OWN, **names)["Trained"]
    model = kind(config(mm_patch_merge_type="flat"))
    assert isinstance(model.get_model().vision_resampler, DynFocusConnector)
    model.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    for one, other in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one, other)
