from __future__ import annotations

import math

import pytest
import torch

from dynfocus_connector import DynamicPrototypeEstimator, density_peaks, exact_topk
from dynfocus_connector.estimator import mark_frames, num_focus_frames
from dynfocus_connector.events import in_time_order
from dynfocus_connector.pooling import pool_cells
from dynfocus_connector.score import per_video, text_similarity
from tests.arms import video
from tests.comparing import assert_close, assert_every_parameter_has_a_gradient


def estimator(**changes):
    values = {"num_prototypes": 5, "pool_grid": 2, "scorer": "importance", "dtype": torch.float64}
    return DynamicPrototypeEstimator(6, **{**values, **changes}).eval()


@pytest.mark.parametrize(
    ("events", "ratio", "expected"),
    [(25, 0.8, 20), (16, 0.8, 13), (25, 0.28, 7), (80, 0.45, 36), (1, 0.8, 1), (25, 1, 25), (25, 0.0, 0), (0, 0.8, 0)],
)
def test_number_of_focus_frames(events, ratio, expected):
    assert num_focus_frames(events, ratio) == expected


def test_shots_of_constant_colour():
    """Nine frames of three colours: every shot is an event, its first frame the peak."""
    colour = torch.tensor([0.0, 3.0, -4.0], dtype=torch.float64).repeat_interleave(3)
    frames = colour[None, :, None, None].expand(1, 9, 16, 6)
    selection = estimator(num_prototypes=3, focus_ratio=1.0, num_neighbors=3)(frames)
    assert selection.prototype_index.tolist() == [[0, 3, 6]]
    assert selection.event.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2]]
    assert selection.focus_index.tolist() == [[0, 3, 6]]
    assert_close(selection.prototypes[0, :, 0, 0], [0.0, 3.0, -4.0])


def test_events_are_in_time_order_and_relabelled():
    points = torch.tensor([[[5.0], [5.1], [0.0], [0.1], [0.05]]])
    peaks = density_peaks(points, 2, 2)
    assert peaks.centers[0].tolist() == [2, 0]
    ordered = in_time_order(peaks)
    assert ordered.centers.tolist() == [[0, 2]]
    assert ordered.assignment.tolist() == [[0, 0, 1, 1, 1]]


def test_scores_are_min_max_of_importance():
    selection = estimator()(video())
    importance = selection.log_importance.gather(1, selection.prototype_index)[0]
    expected = (importance - importance.min()) / (importance.max() - importance.min())
    assert_close(selection.scores[0], expected, 1e-6)
    chosen = selection.scores[0].argsort(descending=True)[:4].sort().values
    assert torch.equal(selection.focus_index[0], selection.prototype_index[0, chosen])


def test_short_video():
    """T = 16 and r = 0.8: 13 focus frames. T = 1: one."""
    module = estimator(num_prototypes=25)
    assert module(video(1, 16)).is_focus.sum() == 13
    single = module(video(1, 1))
    assert single.is_focus.tolist() == [[True]]
    assert single.scores.tolist() == [[1.0]]


@pytest.mark.parametrize("scorer", ["network", "importance", "question"])
@pytest.mark.parametrize("hard", [True, False])
def test_degenerate_videos(scorer, hard):
    module = estimator(scorer=scorer, num_samples=4)
    constant = torch.ones(1, 7, 16, 6, dtype=torch.float64)
    twice = video(1, 4).repeat_interleave(2, 1)
    for frames in (constant, twice, video(1, 1), video(1, 3)):
        selection = module(frames, hard=hard)
        assert selection.is_focus.sum() == num_focus_frames(min(5, frames.shape[1]), 0.8)
        for tensor in selection:
            assert not tensor.double().isnan().any()


def test_all_equal_scores_choose_the_first():
    constant = torch.ones(1, 7, 16, 6, dtype=torch.float64)
    selection = estimator()(constant)
    assert selection.scores.tolist() == [[1.0] * 5]
    assert selection.focus_index.tolist() == [[0, 1, 2, 3]]


def test_all_frames_masked():
    frames, mask = video(2, 4), torch.ones(2, 4, dtype=torch.bool)
    mask[1] = False
    selection = estimator()(frames, frame_mask=mask)
    assert not selection.is_focus[1].any()
    assert (selection.focus_index[1] == -1).all()
    assert (selection.prototype_index[1] == -1).all()
    assert (selection.event[1] == -1).all()
    assert (selection.soft_mask[1] == 0).all()


@pytest.mark.parametrize("damage", [math.nan, math.inf])
@pytest.mark.parametrize("scorer", ["network", "importance", "question"])
def test_a_damaged_frame_changes_nothing_else(damage, scorer):
    module, frames = estimator(scorer=scorer), video(2, 9)
    damaged = frames.clone()
    damaged[0, 4] = damage
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    without, with_it = module(frames[:, others]), module(damaged)
    kept = torch.tensor(others)
    assert torch.equal(kept[without.focus_index[0]], with_it.focus_index[0])
    assert_close(without.prototypes[0], with_it.prototypes[0])
    assert_close(without.log_importance[0], with_it.log_importance[0, kept])
    assert torch.equal(module(frames).focus_index[1], with_it.focus_index[1])
    assert with_it.scores.isfinite().all()


@pytest.mark.parametrize("grid", [(2, 8), (8, 2)])
def test_frames_that_are_not_square(grid):
    selection = estimator()(video(), grid=grid)
    assert selection.prototypes.shape == (1, 5, 4, 6)
    assert not torch.allclose(selection.prototypes, estimator()(video()).prototypes)


def test_k_and_l_of_a_call():
    selection = estimator()(video(), num_prototypes=7, num_focus=2)
    assert selection.prototype_index.shape == (1, 7)
    assert selection.focus_index.shape == (1, 2)
    assert estimator()(video(), num_focus=0).focus_index.shape == (1, 0)
    everything = estimator()(video(), num_prototypes=9, num_focus=9)
    assert everything.is_focus.all()


def test_soft_is_the_smoothed_top_k_of_the_scores():
    module = estimator(num_samples=None)
    selection = module(video(), hard=False)
    assert_close(selection.soft_mask, exact_topk(selection.scores, 4, sigma=0.1), 1e-6, 1e-7)


def test_straight_through():
    """P_hard forward, the gradient of P_sigma."""
    frames, noise = video(), torch.randn(1, 8, 5, dtype=torch.float64)
    gradients = []
    for relaxation in ("soft", "straight_through"):
        torch.manual_seed(0)
        module = estimator(scorer="network", relaxation=relaxation).train()
        selection = module(frames, noise=noise)
        if relaxation == "straight_through":
            assert_close(selection.soft_mask, module(frames, hard=True).soft_mask)
        (selection.soft_mask * torch.arange(5.0)).sum().backward()
        gradients.append(module.score.regress[-1].weight.grad)
    assert_close(*gradients)


def test_straight_through_is_one_hot_to_the_bit():
    module = estimator(scorer="network", relaxation="straight_through", num_samples=7, dtype=None).train()
    for seed in range(20):
        mask = module(video(seed=seed).float()).soft_mask
        assert set(mask.detach().unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("hard", [None, True, False])
@pytest.mark.parametrize("frames", [1, 3, 9])
@pytest.mark.parametrize("scorer", ["network", "question"])
def test_every_parameter_trains(hard, frames, scorer):
    module = estimator(scorer=scorer, num_samples=4, dim_text=3).train()
    selection = module(video(1, frames), hard=hard)
    (selection.filtered_prototypes().sum() + selection.soft_mask.flatten()[:0].sum()).backward()
    assert_every_parameter_has_a_gradient(module)


def test_shapes_do_not_depend_on_training():
    module = estimator(scorer="network", num_samples=4)
    frames = video(2, 7)
    shapes = [[(x.shape, x.dtype) for x in module.train(mode)(frames)] for mode in (False, True)]
    assert shapes[0] == shapes[1]


class TestText:
    def test_similarity_by_hand(self):
        prototypes = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]], [[3.0, 3.0], [1.0, 0.0]]]])
        text = torch.tensor([[[0.0, 5.0], [7.0, 7.0]]])
        mask = torch.tensor([[True, False]])
        assert_close(text_similarity(prototypes, text, mask), [[1.0, math.sqrt(0.5)]], 1e-6)

    def test_the_question_moves_the_focus(self):
        """Weight 1: the frame that matches the question is first."""
        frames = video(1, 6)
        module = estimator(num_prototypes=6, text_weight=1.0)
        for wanted in range(6):
            text = pool_cells(frames, (4, 4), 2)[:, wanted, :1]
            selection = module(frames, text, num_focus=1)
            assert selection.focus_index.tolist() == [[wanted]]

    def test_a_masked_question_is_none(self):
        module, frames = estimator(text_weight=0.7), video(2)
        mask = torch.zeros(2, 3, dtype=torch.bool)
        with_text = module(frames, torch.randn(2, 3, 6, dtype=torch.float64), text_mask=mask)
        assert torch.equal(with_text.scores, module(frames).scores)

    def test_per_frame_queries_by_hand(self):
        text = torch.tensor([[[[1.0]], [[3.0]], [[8.0]]]])
        assert per_video(text, None, None)[0].tolist() == [[[4.0]]]
        mask = torch.tensor([[[True], [True], [False]]])
        mean, real = per_video(text, mask, None)
        assert mean.tolist() == [[[2.0]]]
        assert real.tolist() == [[True]]
        assert per_video(text, None, mask[..., 0])[0].tolist() == [[[2.0]]]

    @pytest.mark.parametrize("changes", [{"scorer": "question"}, {"text_weight": 0.9}])
    def test_queries_of_padding_frames_have_no_part(self, changes):
        module, frames = estimator(**changes), video(1, 9)
        mask = (torch.arange(9) < 6)[None]
        text = torch.randn(1, 9, 3, 6, dtype=torch.float64)
        other = torch.where(mask[..., None, None], text, 50.0)
        alone = module(frames[:, :6], text[:, :6])
        padded = module(frames, other, frame_mask=mask)
        assert_close(padded.scores[:, :5], alone.scores)


def test_mark_frames():
    assert mark_frames(torch.tensor([[0, 2, -1]]), 4).tolist() == [[True, False, True, False]]


@pytest.mark.parametrize("clustering", ["kmeans", "weighted_kmeans"])
@pytest.mark.parametrize("seeding", ["farthest", "k-means++", "random"])
def test_other_clusterings(clustering, seeding):
    module = estimator(clustering=clustering, clustering_seeding=seeding)
    selection = module(video(2))
    assert torch.equal(selection.focus_index, module(video(2)).focus_index)
    assert (selection.focus_index.diff() > 0).all()
    assert selection.event.gather(1, selection.prototype_index).tolist() == [list(range(5))] * 2


def test_seed_of_the_clustering():
    frames = video(1, 40)
    modules = [estimator(clustering="kmeans", clustering_seeding="random", clustering_seed=seed) for seed in range(5)]
    picks = {tuple(module(frames).prototype_index[0].tolist()) for module in modules}
    assert len(picks) > 1


def test_chosen_frames_instead():
    frames = video(1, 9)
    selection = estimator()(frames, focus_index=torch.tensor([[7, 2]]))
    assert selection.focus_index.tolist() == [[2, 7]]
    assert selection.is_focus.nonzero()[:, 1].tolist() == [2, 7]
    assert (selection.soft_mask == torch.eye(2)).all()
