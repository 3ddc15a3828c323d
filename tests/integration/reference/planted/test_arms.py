"""Every arm builds, learns for a step and is asked; what is shared by all is shared, what differs differs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from dynfocus_connector import TokenKind
from dynfocus_reference.planted.arms import (
    ABLATIONS,
    ARMS,
    PROJECTOR,
    budget_of,
    choosing,
    compress,
    install,
    oracle_frames,
)
from dynfocus_reference.planted.evaluation import evaluate
from dynfocus_reference.planted.questions import KINDS
from dynfocus_reference.planted.recipe import planted_model
from dynfocus_reference.planted.samples import collate, training_pool
from dynfocus_reference.planted.sources import Source, extra_source, negative
from dynfocus_reference.planted.stage1 import CAPTIONS, align
from dynfocus_reference.planted.training import Schedule, train_arm, warm_then_cosine
from dynfocus_reference.planted.world import render

EVERY = {**ARMS, **ABLATIONS}


@pytest.fixture(scope="module")
def pool(few, processor):
    return training_pool(few.stories, processor, KINDS, 12, seed=0)


@pytest.mark.parametrize("name", EVERY)
def test_an_arm_learns_for_a_step_and_answers(name, few, processor, pool):
    arm, model = EVERY[name], planted_model(0)
    install(arm, model, seed=0)
    before = {key: value.clone() for key, value in model.named_parameters()}
    few.forget()
    train_arm(arm, model, [Source(few, pool)], Schedule(2, 8, 1e-3), seed=0)
    changed = {key.split(".")[0] for key, value in model.named_parameters() if not torch.equal(before[key], value)}
    assert "vision" not in changed
    assert "qformer" not in changed
    assert changed == ({"language_model"} if arm.watches == "nothing" else {part.split(".")[0] for part in arm.trains})
    scores = evaluate(arm, model, few, processor, ("salience", "order"))
    assert all(0 <= score.accuracy <= 1 for score in scores.values())
    assert (scores["salience"].recall is not None) == arm.chooses
    assert scores["order"].recall is None
    assert scores["salience"].tokens == 0 if arm.watches == "nothing" else scores["salience"].tokens > 0


def test_rivals_spend_at_most_what_dynfocus_spends(few, processor):
    model = planted_model(0)
    budget = budget_of(model, few.length).max_tokens
    assert budget == 3 * 15 + 29 * 2
    for arm in ARMS.values():
        if arm.name == "all tokens" or arm.watches == "nothing":
            continue
        model = planted_model(0)
        install(arm, model.eval(), seed=0)
        few.forget()
        tokens = evaluate(arm, model, few, processor, ("motion",))["motion"].tokens
        assert tokens <= budget, arm.name


def test_only_the_scorer_differs_between_scorers_at_the_start():
    models = {name: planted_model(0) for name in ("dynfocus", "question scorer", "frozen scorer")}
    for name, model in models.items():
        install(ARMS[name], model, seed=3)
    ours = models["dynfocus"].state_dict()
    for name in ("question scorer", "frozen scorer"):
        theirs = models[name].state_dict()
        differing = {key for key in ours.keys() & theirs.keys() if not torch.equal(ours[key], theirs[key])}
        assert all(".score." in key for key in differing)
        assert bool(differing) == (name == "question scorer")


def test_a_frozen_scorer_stays_as_it_was(few, pool):
    model = planted_model(0)
    connector = install(ARMS["frozen scorer"], model, seed=0)
    before = [value.clone() for value in connector.estimator.parameters()]
    few.forget()
    train_arm(ARMS["frozen scorer"], model, [Source(few, pool)], Schedule(1, 4, 1e-2), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, connector.estimator.parameters(), strict=True))


def test_an_arm_with_a_stage_1_of_its_own_begins_anew(few):
    kept, model = planted_model(0).connector.encoder.state_dict(), planted_model(0)
    for arm in (ABLATIONS["xxx → xoo"], ABLATIONS["xox → ooo"]):
        anew = install(arm, model, seed=0).encoder.state_dict()
        assert all(not torch.equal(kept[key], anew[key]) for key in kept if key.startswith("projector"))
    assert torch.equal(
        install(ARMS["dynfocus"], planted_model(0), 0).encoder.state_dict()[key := next(iter(kept))], kept[key]
    )


@pytest.mark.parametrize("trains", [(), (PROJECTOR,), ("connector",)])
def test_stage_1_trains_the_parts_it_names(trains, few, processor):
    model = planted_model(0)
    few.forget()
    before = {key: value.clone() for key, value in model.named_parameters()}
    plan = [part._replace(schedule=Schedule(1, 4, 1e-2)) for part in CAPTIONS]
    align(model, few, processor, trains, seed=0, plan=plan)
    changed = {key for key, value in model.named_parameters() if not torch.equal(before[key], value)}
    expected = {"projector", "rods", "score"} if "connector" in trains else {"projector"} if trains else set()
    assert {key.rpartition(".")[0].split(".")[2] for key in changed} == expected  # the score by weight decay alone
    assert all(key.startswith("connector.") for key in changed)


@pytest.mark.parametrize("extra", ["videos", "images", "negatives"])
def test_extra_sources_add_half_as_many_samples(extra, few, pool, processor, tmp_path):
    model = planted_model(0)
    source = extra_source(extra, model, Source(few, pool), 500, ("salience",), processor, tmp_path, seed=0)
    assert len(source.pool) == len(pool) // 2
    kinds = {sample.question.kind for sample in source.pool}
    assert kinds <= {"videos": {"salience"}, "images": {"salience", "detail"}, "negatives": {"count", "motion"}}[extra]
    assert source.memory.length == (1 if extra == "images" else few.length)
    for sample in source.pool if extra == "images" else []:
        story = few.stories[sample.story]
        start, _ = sample.question.evidence
        assert torch.equal(source.memory.tokens[sample.story, 0], few.tokens[sample.story, start])
        assert any(name in sample.question.text for name, scene in story.boards.items() if scene.start == start)
    arm = dataclasses.replace(ABLATIONS["more videos"], extra=extra)
    install(arm, model, seed=0)
    few.forget()
    order = [Source(few, []), source]
    assert train_arm(arm, model, order, Schedule(2, 4, 1e-3), seed=0) > 0


def test_the_other_domain_is_a_negative(few):
    story = few.stories[0]
    assert (negative(story).astype(int) + render(story) == 255).all()


def test_a_batch_lies_on_the_default_device(pool):
    with torch.device("meta"):
        batch = collate(pool[:3])
    assert {value.device.type for value in batch if isinstance(value, torch.Tensor)} == {"meta"}


def test_an_unsure_oracle_shows_event_prototypes_blended(few):
    model = planted_model(0).train()
    connector = install(ARMS["oracle frames"], model, seed=0)
    model.set_trainable([r"connector\."])
    patches, text = few.patches(torch.arange(6)), torch.zeros(6, 32, 2, 32)
    frames = torch.tensor([[0, 12, 30]] * 6)

    def shown(blend, hard):
        with torch.no_grad(), choosing(connector, frames, blend):
            return connector(patches, text, hard=hard)

    sure = shown(None, True)
    unsure, one_sided = (shown(np.random.default_rng(1), hard) for hard in (False, True))
    assert torch.equal(unsure.frame_index, one_sided.frame_index)
    cones = unsure.kind == int(TokenKind.CONE)
    assert not torch.allclose(unsure.tokens[cones], one_sided.tokens[cones])
    assert torch.equal(unsure.tokens[~cones], one_sided.tokens[~cones])
    pairs = zip(sure.selection.focus_index.tolist(), unsure.selection.focus_index.tolist(), strict=True)
    assert 1.0 < np.mean([len({*given} & {*seen}) for given, seen in pairs]) < 3.0


def test_remembered_events_and_rows_change_nothing(few, pool):
    for name in ("dynfocus", "uniform frames", "mean pooling", "event merging"):
        model = planted_model(0).eval()
        connector = install(ARMS[name], model, seed=0)
        model.set_trainable([r"connector\."])
        few.forget()
        batch = collate(pool[:5])
        with torch.no_grad():
            remembered = [compress(ARMS[name], model, few, batch, np.random.default_rng(0)) for _ in range(2)]
            text = few.answers_of_qformer(model, batch.story, batch.asked, batch.asked_mask)
            options = {} if name in ("dynfocus", "uniform frames") else {"budget": budget_of(model, few.length)}
            plain = connector(few.patches(batch.story), text, **options)
        for video in remembered:
            assert torch.equal(video.tokens, plain.tokens), name
            assert torch.equal(video.frame_index, plain.frame_index), name


def test_the_oracle_shows_the_evidence(few, pool):
    questions = tuple(sample.question for sample in pool)
    stories = [few.stories[sample.story] for sample in pool]
    for random in (None, np.random.default_rng(0)):
        for question, row in zip(questions, oracle_frames(questions, 32, 3, random, stories).tolist(), strict=True):
            assert len(set(row)) == 3
            assert row == sorted(row)
            if question.evidence is not None:
                assert sum(question.evidence[0] <= frame < question.evidence[1] for frame in row) == 1


def test_the_learning_rate_rises_then_falls():
    rates = [warm_then_cosine(step, 100) for step in range(100)]
    assert rates[0] < rates[4] > rates[50] > rates[99] >= 0
