import dataclasses

import pytest
import torch

from dynfocus_connector import TokenKind
from dynfocus_reference.cost import clock, row, table
from dynfocus_reference.cost.arms import ARMS, become
from dynfocus_reference.cost.page import PARTS, page
from dynfocus_reference.cost.row import PROMPT, Case, Cost, config_of
from dynfocus_reference.model_info import build_on_meta
from dynfocus_reference.trainable import count_parameters
from dynfocus_reference.visuals import Visuals

from .conftest import run_verb, video_batch, visual_inputs

CPU = torch.device("cpu")
CASE = Case("tiny", "dynfocus", 3, "cpu", "float32", 1)
COST = Cost(7, {"tower": 0.5, "prefill": 0.25}, 1.0, 2.0, 10**9, 2 * 10**9, 3 * 10**9)


def compressed(model, arm, lengths):
    """What an arm makes of some clips, and what it made it from."""
    given = {}
    connector = model.connector
    become(model, arm)
    model.connector.register_forward_pre_hook(lambda module, args: given.update(frames=args[0], text=args[1]))
    with torch.no_grad():
        video = model.compress(Visuals.build(*visual_inputs(lengths).values()))
    return video, given["frames"], given["text"], connector.encoder


def test_two_tokens_are_the_mean_and_what_the_question_finds(model):
    lengths = [3, 5]
    video, frames, text, encoder = compressed(model, "two_tokens", lengths)
    assert video.offsets.tolist() == [0, 6, 16]
    assert set(video.kind.tolist()) == {int(TokenKind.ROD)}
    for clip, length in enumerate(lengths):
        tokens = video.split()[clip].tokens
        for t in range(length):
            patches = frames[clip, t]
            attention = encoder.rods.query(text[clip, t]) @ encoder.rods.key(patches).T / patches.shape[1] ** 0.5
            found = (attention.softmax(-1) @ patches).mean(0)
            torch.testing.assert_close(tokens[2 * t], encoder.projector.content(patches.mean(0)), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(tokens[2 * t + 1], encoder.projector.context(found), atol=1e-5, rtol=1e-4)


def test_every_patch_is_projected(model):
    video, frames, _, encoder = compressed(model, "every_patch", [2, 1])
    expected = torch.cat([frames[0, 0], frames[0, 1], frames[1, 0]])
    torch.testing.assert_close(video.tokens, encoder.projector.fine(expected))
    assert video.frame_index.tolist() == [0] * 64 + [1] * 64 + [0] * 64
    assert video.anchor.tolist() == [*range(64)] * 3


@pytest.mark.parametrize("arm", ARMS)
def test_every_parameter_of_an_arm_trains(model, arm):
    become(model, arm)
    model.set_trainable([r"connector\.", r"language_model\."])
    model.train()(**video_batch([9])).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("arm", ARMS)
def test_a_row_says_how_many_tokens_the_language_model_reads(arm, monkeypatch):
    read = []
    build = row.build

    def noting(case):
        model = build(case)
        model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: read.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        )
        return model

    monkeypatch.setattr(row, "build", noting)
    cost = row.measure(dataclasses.replace(CASE, arm=arm))
    assert cost.tokens == table.visual_tokens("tiny", arm, 3) == read[0] - PROMPT + 1
    assert cost.tokens == {"dynfocus": 3 * 40, "two_tokens": 6, "every_patch": 3 * 64}[arm]
    assert set(cost.parts) == set(PARTS if arm == "dynfocus" else PARTS[:2] + PARTS[5:])
    assert all(seconds > 0 for seconds in cost.parts.values())
    assert sum(cost.parts.values()) <= cost.answer
    assert cost.step > 0
    assert 0 < cost.loaded <= cost.answer_peak <= cost.step_peak


@pytest.mark.gpu
@pytest.mark.parametrize("arm", ARMS)
def test_a_row_on_a_gpu(arm):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    cost = row.measure(Case("tiny", arm, 8, "cuda", "bfloat16", 1))
    weights = 2 * count_parameters(build_on_meta(config_of("tiny")))
    assert 0.9 * weights < cost.loaded < cost.answer_peak < 1e9
    assert 0 < sum(cost.parts.values()) <= cost.answer


def test_a_part_within_another_counts_for_itself(monkeypatch):
    """A clock that goes on by one with every look: outer from 0 to 3, inner from 1 to 2."""
    looks = iter(range(100))
    monkeypatch.setattr(clock, "now", lambda device: float(next(looks)))

    class Part:
        def inner(self):
            return 1

        def outer(self):
            return self.inner()

    part = Part()
    with clock.watched({"outer": (part, "outer"), "inner": (part, "inner")}, CPU) as seconds:
        assert part.outer() == 1
    assert seconds == {"outer": 2.0, "inner": 1.0}
    assert "outer" not in vars(part)


def test_rows_that_cannot_be(monkeypatch):
    assert table.outcome(CASE, max_tokens=2) == "not run"
    ended = {"returncode": 0, "stdout": "null\n", "stderr": "boom"}
    monkeypatch.setattr(table.subprocess, "run", lambda *args, **kwargs: type("Done", (), ended))
    assert table.outcome(CASE) == "does not fit"
    ended["returncode"] = -9
    assert table.outcome(CASE) == "does not fit"
    ended["returncode"] = 1
    with pytest.raises(RuntimeError, match=r"expected Case\(model='tiny'.* got:\nboom"):
        table.outcome(CASE)


def test_the_page_tells_what_was_measured_where(model):
    long = dataclasses.replace(CASE, frames=5000, arm="two_tokens")
    text = page([(CASE, COST), (long, "not run")], "one thread of a chip", "dynfocus cost --out x.md")
    assert "`tiny`" in text
    assert "Measured on one thread of a chip." in text
    assert "`dynfocus cost --out x.md`" in text
    assert "| 3 | DynFocus | 500.0 | – | – | – | – | – | 250.0 | 1,000.0 |" in text
    assert "| 3 | DynFocus | 7 | 1,000.0 ms | 2.000 GB | 2,000.0 ms | 3.000 GB |" in text
    assert "| 5000 | 2 per frame | – | not run | – | – | – |" in text
    assert "No GPU was at hand" in text
    assert "4,096" not in text
    gpu = dataclasses.replace(CASE, device="cuda", model="paper-7b", dtype="bfloat16")
    text = page([(gpu, dataclasses.replace(COST, tokens=4096))], "a GPU", "x")
    assert "7,954,285,441 parameters" in text
    assert "No GPU" not in text
    assert "made for 4,096 positions" in text


def test_command_writes_the_page_whole_or_not_at_all(tmp_path, monkeypatch):
    made = tmp_path / "cost.md"
    made.write_text("old")
    arguments = ("cost", "--device", "cpu", "--frames", "2", "--repeats", "1", "--out", str(made))
    assert run_verb(*arguments, "--max-tokens", "5") == 0
    text = made.read_text()
    assert "| 2 | 2 per frame | 4 |" in text
    assert "| 2 | DynFocus | – | not run |" in text
    assert "Regenerate with `dynfocus cost --model tiny --device cpu --max-tokens 5" in text
    assert list(tmp_path.iterdir()) == [made]
    made.write_text("old")

    def fail(case, most):
        raise RuntimeError("no")

    monkeypatch.setattr(table, "outcome", fail)
    with pytest.raises(RuntimeError, match="no"):
        run_verb(*arguments)
    assert made.read_text() == "old"
