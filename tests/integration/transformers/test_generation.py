"""Generation with compressed videos, compared at logit level with one forward over everything."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from dynfocus_connector import estimator
from dynfocus_connector.budget import evenly
from dynfocus_transformers import attach
from dynfocus_transformers.adapters import adapter_for
from dynfocus_transformers.caches import CACHE
from tests.integration.transformers.connectors import trained, training_free
from tests.integration.transformers.tiny import END, HOSTS, IMAGE, VIDEO, Tiny, Video, text

PROMPTS = [[text(1, 3), Video(6, 1), text(2, 6)], [text(3, 2), Video(6, 2), text(4, 4)]]
STEPS = 5
TOLERANCE = {"atol": 2e-5, "rtol": 0}


def attached(host: Any, **options: Any) -> Any:
    return attach(host, trained(), ratio=0.4, **options)


def generate(model: Any, batch: dict[str, Any], **options: Any) -> Any:
    values = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False, **options}
    return model.generate(**batch, **values, output_logits=True, return_dict_in_generate=True)


def replay(tiny: Tiny, model: Any, prompt: list, answer: Tensor) -> Tensor:
    """Logits of every token of an answer, from one forward over prompt and answer."""
    batch = tiny.batch([*prompt, answer.tolist()], labels=True)
    logits = model(**batch).logits
    return logits[0, -len(answer) - 1 : -1]


@pytest.mark.proves("cached generation = full forward, per step")
@pytest.mark.parametrize("cache", [None, "static"], ids=["dynamic", "static"])
@torch.no_grad()
def test_greedy(tiny: Tiny, host: Any, cache: str | None) -> None:
    attached(host)
    batch = tiny.batch(*PROMPTS)
    out = generate(host, batch, **({"cache_implementation": cache} if cache else {}))
    length = batch["input_ids"].shape[1]
    assert torch.equal(out.sequences[:, :length], batch["input_ids"])
    assert all(report.tokens_after < report.tokens_before for report in host.dynfocus_report)
    for row, prompt in enumerate(PROMPTS):
        expected = replay(tiny, host, prompt, out.sequences[row, length:])
        got = torch.stack([step[row] for step in out.logits])
        torch.testing.assert_close(got, expected, **TOLERANCE)


@pytest.mark.proves("rows that shrink unequally are padded on the left")
@torch.no_grad()
def test_new_padding(tiny: Tiny, host: Any) -> None:
    attached(host)
    length = tiny.batch(PROMPTS[0])["input_ids"].shape[1]
    prompts = [PROMPTS[0], [text(3, length - 4), text(4, 4)]]
    batch = tiny.batch(*prompts)
    del batch["attention_mask"]
    out = generate(host, batch)
    for row, prompt in enumerate(prompts):
        expected = replay(tiny, host, prompt, out.sequences[row, length:])
        torch.testing.assert_close(torch.stack([step[row] for step in out.logits]), expected, **TOLERANCE)


@pytest.mark.proves("decoding by hand, token by token")
@torch.no_grad()
def test_decoding_by_hand(tiny: Tiny, host: Any) -> None:
    attached(host, expand_logits=False)
    answer = text(5, 4)
    whole = host(**tiny.batch([*PROMPTS[0], answer], labels=True)).logits[0, -len(answer) :]
    out = host(**tiny.batch(PROMPTS[0]), use_cache=True)
    for step, token in enumerate(answer):
        out = host(input_ids=torch.tensor([[token]]), **{CACHE: out[CACHE]})
        torch.testing.assert_close(out.logits[0, -1], whole[step], **TOLERANCE)


@pytest.mark.proves("several returned sequences, per step")
@torch.no_grad()
def test_sampled_sequences(tiny: Tiny, host: Any) -> None:
    attached(host)
    batch = tiny.batch(*PROMPTS)
    words = {"suppress_tokens": [VIDEO, IMAGE], "top_k": 0}  # no placeholder is an answer
    out = generate(host, batch, do_sample=True, num_return_sequences=3, **words)
    length = batch["input_ids"].shape[1]
    assert len(out.sequences.unique(dim=0)) == 6
    for row in range(6):
        assert torch.equal(out.sequences[row, :length], batch["input_ids"][row // 3])
        expected = replay(tiny, host, PROMPTS[row // 3], out.sequences[row, length:])
        got = torch.stack([step[row] for step in out.logits])
        torch.testing.assert_close(got, expected, **TOLERANCE)


@pytest.mark.proves("beams, score by score")
@torch.no_grad()
def test_beams(tiny: Tiny, host: Any) -> None:
    attached(host)
    batch = tiny.batch(*PROMPTS)
    out = generate(host, batch, num_beams=3, num_return_sequences=3, output_scores=True)
    length = batch["input_ids"].shape[1]
    for row in range(6):
        answer = out.sequences[row, length:]
        logits = replay(tiny, host, PROMPTS[row // 3], answer).log_softmax(-1)
        score = logits.gather(1, answer[:, None]).sum() / STEPS
        torch.testing.assert_close(out.sequences_scores[row], score, **TOLERANCE)


@pytest.mark.proves("a conversation continues on its cache")
@torch.no_grad()
def test_second_turn(tiny: Tiny, host: Any) -> None:
    attached(host, question="first")
    prompt = PROMPTS[0]
    first = generate(host, tiny.batch(prompt))
    cache = first[CACHE]
    held = cache.get_seq_length()
    answer = first.sequences[0, -STEPS:].tolist()
    longer = tiny.batch([*prompt, answer, text(9, 4)])
    pixels = {key for key in longer if key.startswith("pixel")}
    resumed = {key: value for key, value in longer.items() if key not in pixels}
    second = generate(host, resumed, **{CACHE: cache})
    assert second[CACHE].get_seq_length() == held + 1 + 4 + STEPS - 1
    mask = torch.zeros_like(longer["input_ids"])
    start = len(tiny.batch(prompt)["input_ids"][0])
    mask[0, start - 7 : start] = 1
    fresh = generate(host, longer, dynfocus={"question_mask": mask})
    assert torch.equal(second.sequences, fresh.sequences)
    for a, b in zip(second.logits, fresh.logits, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


@pytest.mark.proves("on a filled cache the first question counts, else the last")
@torch.no_grad()
def test_default_question(tiny: Tiny, host: Any) -> None:
    """What is cached was made for the first question; the second one, which a new start takes, gives other logits."""
    attach(host, trained(), ratio=0.2)
    turns = adapter_for(host).ends == "turns"
    first = [text(1, 3), Video(6, 1), [*text(2, 6), *([END, 7] if turns else [])]]
    begun = generate(host, tiny.batch(first))
    second = [*begun.sequences[0, -STEPS:].tolist(), END, *text(9, 4), *([END, 7] if turns else [])]
    longer = tiny.batch([*first, second])
    asked = torch.zeros_like(longer["input_ids"])
    place = int((longer["input_ids"] == tiny.placeholder).nonzero()[-1, 1])
    asked[0, place + 1 : place + 8] = 1
    known = generate(host, longer, dynfocus={"question_mask": asked}).logits[0]
    new = generate(host, longer).logits[0]
    resumed = generate(host, longer, **{CACHE: begun[CACHE]}).logits[0]
    torch.testing.assert_close(resumed, known, atol=2e-6, rtol=0)
    assert (resumed - new).abs().max() > 2e-4
    if turns:
        assert torch.equal(generate(host, longer, dynfocus={"question": "first"}).logits[0], known)


@torch.no_grad()
def test_events_are_found_once_per_video(tiny: Tiny, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the cache another question finds them again only where the video is another."""
    attached(host)
    found = counted(monkeypatch)
    first = generate(host, tiny.batch(PROMPTS[0]))
    assert len(found) == 1
    answer = first.sequences[0, -STEPS:].tolist()
    longer = tiny.batch([*PROMPTS[0], answer, text(9, 4)])
    generate(host, longer, **{CACHE: first[CACHE]})
    generate(host, longer)
    logits = host(**longer).logits
    assert len(found) == 1
    assert torch.equal(attach(tiny.model(), trained(), ratio=0.4)(**longer).logits, logits)
    assert len(found) == 2
    (start, video, _), rest = PROMPTS[0], [answer, text(9, 4)]
    generate(host, tiny.batch([start, replace(video, seed=8), *rest]))
    assert len(found) == 3


@torch.no_grad()
def test_events_of_another_search_are_not_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = HOSTS["llava_onevision"]
    host, batch = attached(tiny.model()), tiny.batch(*PROMPTS)
    found = counted(monkeypatch)
    host(**batch)
    host(**batch)
    assert len(found) == 2
    host(**batch, dynfocus={"ratio": 0.3})
    assert len(found) == 4
    host.dynfocus.estimator.num_neighbors = 1
    narrow = host(**batch, dynfocus={"ratio": 0.3}).logits
    assert len(found) == 6
    twin = copy.deepcopy(host)
    assert torch.equal(twin(**batch, dynfocus={"ratio": 0.3}).logits, narrow)
    assert len(found) == 8
    with torch.enable_grad():
        host(**batch, dynfocus={"ratio": 0.3})
    assert len(found) == 10


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever the connector searches a video for events."""
    found: list[int] = []
    search = estimator.find_events
    monkeypatch.setattr(estimator, "find_events", lambda *a, **k: found.append(1) or search(*a, **k))
    return found


def test_generate_holds_no_graph() -> None:
    tiny = HOSTS["llava_onevision"]
    host = attached(tiny.model())
    seen: list[bool] = []
    host.dynfocus.register_forward_hook(lambda module, args, video: seen.append(video.tokens.requires_grad))
    generate(host, tiny.batch(PROMPTS[0]))
    assert seen == [False]


@torch.no_grad()
def test_a_cache_of_the_users_own(tiny: Tiny, host: Any) -> None:
    """It remembers which video tokens it holds although nothing of it is returned."""
    attached(host, question="first")
    cache = DynamicCache(config=host.config.get_text_config())
    out = host.generate(**tiny.batch(PROMPTS[0]), **{CACHE: cache}, max_new_tokens=2, min_new_tokens=2)
    longer = tiny.batch([*PROMPTS[0], out[0, -2:].tolist(), text(9, 4)])
    host.generate(**longer, **{CACHE: cache}, max_new_tokens=1)
    newline = 1 if tiny.name == "llava_onevision" else 0
    words = int((longer["input_ids"] != tiny.placeholder).sum())
    assert cache.get_seq_length() == words + newline + host.dynfocus_report[0].tokens_after


@pytest.mark.skipif(CACHE == "past_key_values", reason="the only name before transformers 5.24")
@torch.no_grad()
def test_the_older_name_of_the_cache(tiny: Tiny, host: Any) -> None:
    attached(host, expand_logits=False)
    batch = tiny.batch(PROMPTS[0])
    step = {"input_ids": torch.tensor([[7]])}
    expected = host(**step, cache=host(**batch, use_cache=True).cache).logits
    with pytest.warns(FutureWarning, match="Use `cache` instead"):
        got = host(**step, past_key_values=host(**batch, use_cache=True).cache).logits
    assert torch.equal(got, expected)
    with pytest.raises(ValueError, match="invalidate the cache"):
        generate(host, batch, past_key_values=generate(host, batch).cache, dynfocus={"question": "last"})


@torch.no_grad()
def test_last_question_with_cache_is_refused(tiny: Tiny, host: Any) -> None:
    attached(host)
    batch = tiny.batch(PROMPTS[0])
    cache = generate(host, batch)[CACHE]
    with pytest.raises(ValueError, match="invalidate the cache"):
        generate(host, batch, **{CACHE: cache}, dynfocus={"question": "last"})


@pytest.mark.proves("lengths count the prompt that came in")
@torch.no_grad()
def test_lengths(tiny: Tiny, host: Any) -> None:
    attach(host, training_free(), ratio=0.4)
    batch = tiny.batch(PROMPTS[0])
    length = batch["input_ids"].shape[1]
    out = host.generate(**batch, max_length=length + 3, min_length=length + 3, do_sample=False)
    assert out.shape[1] == length + 3


@pytest.mark.proves("token count = the budget's promise")
@pytest.mark.parametrize("budget", [{"ratio": 0.25}, {"max_tokens": 37}, {"max_tokens": 5}], ids=str)
@torch.no_grad()
def test_token_count(tiny: Tiny, host: Any, budget: dict[str, Any]) -> None:
    connector = training_free()
    attach(host, connector, **budget)
    batch = tiny.batch(PROMPTS[0])
    logits = host(**batch).logits
    (plan,) = connector.plan(16, host.dynfocus_settings.budget(), 6)
    (report,) = host.dynfocus_report
    assert report.tokens_after == plan.num_tokens <= host.dynfocus_settings.budget().tokens_for(6, 16)
    around = int((batch["input_ids"] != tiny.placeholder).sum())
    newline = 1 if tiny.name == "llava_onevision" else 0
    assert logits.shape[1] == around + newline + plan.num_tokens
    assert set(report.frame_index.tolist()) == set(evenly(6, plan.num_frames))
