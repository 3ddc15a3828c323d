from __future__ import annotations

import pytest
import torch

from dynfocus_connector.events import find_events
from tests.comparing import assert_close
from tests.reference.density_peaks import density_peaks
from tests.reference.prototypes import member_weights, merge


@pytest.mark.parametrize("weights", ["importance", "uniform", "centers"])
@pytest.mark.parametrize("scale", [1.0, "max"])
def test_oracle(weights, scale):
    pooled = torch.randn(2, 10, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    events = find_events(pooled, 4, 3, merge_weights=weights, distance_scale=scale)
    for b in range(2):
        points = pooled[b].flatten(1).numpy()
        peaks = density_peaks(points, 4, 3, distance_scale=scale)
        share = member_weights(
            peaks.log_importance, peaks.assignment, peaks.centers, peaks.log_density > -1e300, weights
        )
        order = peaks.centers.argsort()
        assert events.peak[b].tolist() == peaks.centers[order].tolist()
        assert events.assignment[b].tolist() == order.argsort()[peaks.assignment].tolist()
        expected = merge(points, peaks.assignment, share, 4)[order].reshape(4, 3, 4)
        assert_close(events.prototypes[b], expected, 1e-6, 1e-8)


def test_given_frames_become_the_peaks():
    pooled = torch.arange(6.0)[None, :, None, None]
    events = find_events(pooled, 2, 3, centers=torch.tensor([[4, 1]]))
    assert events.peak.tolist() == [[1, 4]]
    assert events.assignment.tolist() == [[0, 0, 0, 1, 1, 1]]
