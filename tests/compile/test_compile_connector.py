"""DPE, CCE and the connector as one graph, for one length and for all; nothing read from the device on the way."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from dynfocus_connector import DynFocusConfig, build_connector, density_peaks
from tests.arms import ARMS, SMALL, question, small, video
from tests.comparing import assert_same_video
from tests.reference.density_peaks import density_peaks as reference

compiled = pytest.mark.compile


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    counters.clear()


def one_graph(module, backend="eager"):
    return torch.compile(module, fullgraph=True, backend=backend)


@compiled
def test_dpe_is_one_graph():
    connector, frames = small(), video(2)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    actual = one_graph(connector.estimator)(frames, frame_mask=mask)
    for one, other in zip(actual, connector.estimator(frames, frame_mask=mask), strict=True):
        torch.testing.assert_close(one, other)


@compiled
def test_cce_is_one_graph():
    connector, frames = small(), video(2)
    count = 2 * connector.num_tokens(9, 16)
    with torch.no_grad():
        selection = connector.estimator(frames)
    text = question(connector, 2)
    actual = one_graph(connector.encoder)(frames, selection, text, num_tokens=count)
    assert_same_video(actual, connector.encoder(frames, selection, text, num_tokens=count))


@compiled
def test_training_is_one_graph():
    """The same tokens, and the same gradient of every parameter."""
    noise, frames = torch.randn(1, 6, 5, dtype=torch.float64), video()
    results = []
    for compile_it in (False, True):
        connector = small().train()
        forward = one_graph(connector, "aot_eager") if compile_it else connector
        forward(frames, question(connector), noise=noise).tokens.square().sum().backward()
        results.append([parameter.grad for parameter in connector.parameters()])
    for plain, graph in zip(*results, strict=True):
        torch.testing.assert_close(graph, plain)


@compiled
def test_one_graph_serves_every_length():
    connector = small()
    forward, text = one_graph(connector), question(connector)
    for length in (9, 12, 31):
        frames = video(1, length)
        if length == 9:
            torch._dynamo.mark_dynamic(frames, 1)
        assert_same_video(forward(frames, text), connector(frames, text))
    assert counters["stats"]["unique_graphs"] == 1


@compiled
def test_export_of_every_length():
    connector = small()
    text, lengths = question(connector), torch.export.Dim("length", min=8, max=1000)
    program = torch.export.export(
        connector, (video(1, 9), text), dynamic_shapes={"frames": {1: lengths}, "text": None}
    ).module()
    for length in (9, 30):
        assert_same_video(program(video(1, length), text), connector(video(1, length), text))


@compiled
@pytest.mark.filterwarnings("ignore:`torch._prims_common.check` is deprecated")  # PyTorch about its own code
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_compiled_peaks_are_those_of_the_oracle(dtype):
    """Generated code finds the centres of float64, among near-duplicates, copies and damage."""
    generator = torch.Generator().manual_seed(0)
    scenes = torch.randn(6, 12, generator=generator).repeat_interleave(5, 0)
    points = (scenes + 0.02 * torch.randn(30, 12, generator=generator)).to(dtype)
    points[11] = points[10]
    points[20, 3] = torch.nan
    peaks = one_graph(lambda x: density_peaks(x, 6, 3), "inductor")(points[None])
    expected = reference(points.double().numpy(), 6, 3)
    assert peaks.centers[0].tolist() == expected.centers.tolist()
    assert peaks.assignment[0].tolist() == expected.assignment.tolist()


class TestNothingIsReadFromTheDevice:
    """Tensors that say they are on a GPU but hold no numbers: whoever asks for one is refused."""

    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("arm", ["paper", "importance", "authors_code", "exact"])
    def test_every_arm(self, arm, training):
        with FakeTensorMode():
            connector = build_connector(DynFocusConfig(**{**SMALL, **ARMS[arm]}), device="cuda").train(training)
            frames = torch.empty(2, 9, 16, 6, device="cuda")
            text = torch.empty(2, 3, connector.encoder.rods.dim_text, device="cuda")
            assert connector(frames, text).tokens.device.type == "cuda"

    @pytest.mark.parametrize(
        "read", [torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.nonzero, lambda x: bool(x.any())]
    )
    def test_asking_is_refused(self, read):
        with FakeTensorMode(), pytest.raises((DataDependentOutputException, RuntimeError)):
            read(torch.empty((), device="cuda"))
