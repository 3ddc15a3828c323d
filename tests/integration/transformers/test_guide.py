"""The recipe of docs/guides/hosts.md adds a host that is not built in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from dynfocus_transformers import attach
from dynfocus_transformers.adapters import REGISTRY
from tests.integration.transformers.connectors import Scaled
from tests.integration.transformers.tiny import MROPE, TEXT, TOKENS, WIDTH, Tiny, Video, grid_run, patches, picture_run
from tests.integration.transformers.tiny import text as words

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "hosts.md"


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
