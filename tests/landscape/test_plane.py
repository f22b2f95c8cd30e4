import numpy as np
import pytest
import torch
from torch import nn

from dirprune.errors import UsageError
from dirprune.landscape import Frame, Objective, PlaneSettings, Store, measure_plane, plane_request
from tests.landscape.problems import blobs, mlp, quadratic, with_batchnorm


def points(objective, nets):
    return tuple(objective.vector(net.state_dict()) for net in nets)


@pytest.mark.parametrize("make", [mlp, with_batchnorm])
def test_the_three_points_reproduce_the_losses_of_the_networks(make):
    nets, data = [make(seed) for seed in range(3)], blobs()
    objective = Objective(nets[0], nn.CrossEntropyLoss(), data, data[:1])
    corners = points(objective, nets)
    plane = measure_plane(objective, corners, PlaneSettings(size=2))
    frame = Frame.through(*corners)
    for index, (net, (x, y)) in enumerate(zip(nets, plane.points, strict=True)):
        alone = Objective(net, nn.CrossEntropyLoss(), data, data[:1]).measure({})
        assert plane.at_points.train_loss[index] == alone.train.loss
        assert plane.at_points.train_error[index] == alone.train.error
        assert plane.at_points.test_loss[index] == alone.test.loss
        on_plane = objective.measure(objective.weights(frame.point(x, y)))
        assert on_plane.train.loss == pytest.approx(alone.train.loss, rel=1e-9)


def test_the_basis_is_orthonormal_and_coordinates_are_distances():
    torch.manual_seed(0)
    a, b, c = torch.randn(3, 50, dtype=torch.float64)
    frame = Frame.through(a, b, c)
    np.testing.assert_allclose(
        [frame.u @ frame.u, frame.v @ frame.v, frame.u @ frame.v], [1, 1, 0], atol=1e-12
    )
    at = [np.array(frame.coordinates(p)) for p in (a, b, c)]
    np.testing.assert_allclose(at[0], 0, atol=1e-12)
    assert at[1][1] == pytest.approx(0, abs=1e-12)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        distance = torch.dist((a, b, c)[i], (a, b, c)[j]).item()
        assert np.linalg.norm(at[i] - at[j]) == pytest.approx(distance, rel=1e-12)


def test_the_grid_holds_the_closed_form_of_a_quadratic():
    objective = quadratic([4.0, 1.0, 7.0])
    corners = [torch.tensor(p, dtype=torch.float64) for p in ((0, 0, 0), (2, 0, 0), (1, 3, 0))]
    plane = measure_plane(
        objective, tuple(corners), PlaneSettings(size=4, margin=0.5), path=torch.stack(corners)
    )
    assert (plane.x[0], plane.x[-1], plane.y[0], plane.y[-1]) == (-1.5, 3.5, -1.5, 4.5)
    x, y = np.meshgrid(plane.x, plane.y)
    np.testing.assert_allclose(plane.grid.train_loss, (0.5 * (4 * x**2 + y**2)).ravel(), rtol=1e-12)
    np.testing.assert_allclose(plane.path, plane.points)
    assert plane.outside == pytest.approx(0, abs=1e-12)
    above = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, -0.5], [0.0, 2.0, 0.25]], dtype=torch.float64)
    plane = measure_plane(objective, tuple(corners), PlaneSettings(size=2), path=above)
    np.testing.assert_allclose(plane.path, [(1, 1), (1, 1), (0, 2)], atol=1e-12)
    assert plane.outside == pytest.approx(0.5)
    assert measure_plane(objective, tuple(corners), PlaneSettings(size=2)).outside is None


def test_a_stopped_grid_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("dirprune.landscape.scan._SECONDS_BETWEEN_SAVES", 0.0)
    objective = quadratic([4.0, 1.0])
    corners = tuple(torch.tensor(p, dtype=torch.float64) for p in ((0, 0), (2, 0), (1, 3)))
    request = plane_request(objective, corners, PlaneSettings(size=3), None)

    def kill(name, done, total):
        if (name, done) == ("points of the plane", 4):
            raise KeyboardInterrupt

    store = Store(tmp_path, request, "plane")
    with pytest.raises(KeyboardInterrupt):
        measure_plane(objective, corners, PlaneSettings(size=3), store=store, progress=kill)
    seen = []
    store = Store(tmp_path, request, "plane")
    resumed = measure_plane(
        objective,
        corners,
        PlaneSettings(size=3),
        store=store,
        progress=lambda name, done, _: seen.append((name, done)),
    )
    assert ("points of the plane", 3) in seen
    assert ("points of the plane", 1) not in seen
    assert resumed.grid == measure_plane(objective, corners, PlaneSettings(size=3)).grid


def test_points_on_a_line_are_refused():
    a = torch.randn(9)
    with pytest.raises(UsageError, match="on a line"):
        Frame.through(a, a + 1, a + 2)
    with pytest.raises(UsageError, match="on a line"):
        Frame.through(a, a, a + 1)


@pytest.mark.parametrize("settings", [{"size": 1}, {"margin": -0.1}, {"margin": float("nan")}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UsageError, match="`size`"):
        PlaneSettings(**settings)
