"""The code of docs/guides/hosts.md runs: comparing, the pages, a host that is not built in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from dynfocus_transformers import TemporalPruner, attach
from dynfocus_transformers.adapters import REGISTRY
from tests.integration.transformers.connectors import Scaled, training_free
from tests.integration.transformers.tiny import (
    HOSTS,
    MROPE,
    TEXT,
    TOKENS,
    WIDTH,
    Tiny,
    Video,
    grid_run,
    patches,
    picture_run,
)
from tests.integration.transformers.tiny import text as words

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "hosts.md"


def block(section: str) -> Any:
    """The only Python of a section, compiled."""
    text = GUIDE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    (found,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return compile(found, str(GUIDE), "exec")


@torch.no_grad()
def test_compare() -> None:
    tiny = HOSTS["llava_onevision"]
    model, inputs = tiny.model(), tiny.batch([words(1, 3), Video(6, 1), words(2, 6)])
    names: dict[str, Any] = {"model": model, "inputs": {**inputs, "max_new_tokens": 3}}
    exec(block("Compare"), names)
    for name, rival in {"ours": "training-free", "uniform": names["uniform"], "pruner": TemporalPruner()}.items():
        assert names["answers"][name].shape[1] > inputs["input_ids"].shape[1]
        (count,) = names["tokens"][name]
        assert 12 <= count <= 24
        with attach(model, rival, ratio=0.25):
            assert torch.equal(model.generate(**inputs, max_new_tokens=3), names["answers"][name])
            assert model.dynfocus_report[0].tokens_after == count


@torch.no_grad()
def test_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = HOSTS["llava_onevision"]
    batch = tiny.batch([words(1, 3), Video(6, 1), words(2, 6), Video(6, 2), words(3, 6)])
    names = {
        "model": attach(tiny.model(), training_free(), ratio=0.4),
        "inputs": {**batch, "max_new_tokens": 1},
        "clips": [torch.zeros(6, 36, 64, 3, dtype=torch.uint8)] * 2,
        "seconds": [[0, 1, 2, 3, 4, 5]] * 2,
        "words": "What is <this>?",
    }
    exec(block("A page about each video"), names)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["video0.html", "video1.html"]
    for report, file in zip(names["model"].dynfocus_report, sorted(tmp_path.iterdir()), strict=True):
        assert report.spatial is not None
        assert "What is &lt;this&gt;?" in file.read_text()
        assert "data:image/jpeg" in file.read_text()


def qwen2_vl() -> Any:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": WIDTH, "num_heads": 4, "patch_size": 4, "mlp_ratio": 2}
    config = transformers.Qwen2VLConfig(
        vision_config=vision, text_config={**TEXT, "rope_parameters": MROPE}, **TOKENS, tie_word_embeddings=False
    )
    return transformers.Qwen2VLForConditionalGeneration(config)


@torch.no_grad()
def test_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    section = GUIDE.read_text().split("## Adding a host")[1]
    (recipe,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(recipe.strip().splitlines()) < 20
    monkeypatch.delitem(REGISTRY, "qwen2_vl", raising=False)
    tiny = Tiny("qwen2_vl", qwen2_vl, patches(96, merge_sizes=False), grid_run, picture_run(6), types=True)
    model, batch = tiny.model(), tiny.batch([words(1, 3), Video(6, 1), words(2, 6)], [Video(3, 2, (2, 5)), words(3, 4)])
    with pytest.raises(NotImplementedError, match="'qwen2_vl'"):
        attach(model)
    exec(compile(recipe, str(GUIDE), "exec"), {})
    plain = model(**batch).logits
    with attach(model, ratio=1.0):
        assert torch.equal(model(**batch).logits, plain)
        assert model(**batch, dynfocus={"ratio": 0.4}).logits.shape[1] < plain.shape[1]
    with attach(model, Scaled()):
        assert not torch.equal(model(**batch).logits, plain)
    monkeypatch.delitem(REGISTRY, "qwen2_vl")
