import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from dirprune.errors import DataError, DivergenceError, UsageError
from dirprune.landscape import CurveSettings, Objective, Store, barrier, connect, point_on_curve
from dirprune.landscape.connectivity import connection_request, settled
from dirprune.landscape.curves import coefficients, straight_bends
from tests.landscape.problems import blobs, mlp, with_batchnorm


@pytest.mark.parametrize("curve", ["bezier", "chain"])
@pytest.mark.parametrize("bends", [1, 2, 5])
def test_the_ends_are_the_checkpoints_to_the_bit(curve, bends):
    torch.manual_seed(0)
    a, b = torch.randn(20), torch.randn(20)
    a[0] = -0.0
    middle = torch.full((bends, 20), torch.inf)  # times zero would be NaN
    for t, end in ((0.0, a), (1.0, b)):
        assert torch.equal(point_on_curve(curve, (a, b), middle, t).view(torch.int32), end.view(torch.int32))


@pytest.mark.parametrize("bends", [1, 2, 3, 4])
def test_a_bezier_curve_is_that_of_de_casteljau(bends):
    points = [np.random.default_rng(i).standard_normal(3) for i in range(bends + 2)]
    ends = torch.tensor(points[0]), torch.tensor(points[-1])
    for t in np.linspace(0, 1, 7):
        level = points
        while len(level) > 1:
            level = [(1 - t) * p + t * q for p, q in itertools.pairwise(level)]
        found = point_on_curve("bezier", ends, torch.tensor(np.array(points[1:-1])), float(t))
        np.testing.assert_allclose(found, level[0], rtol=1e-12)


@pytest.mark.parametrize("bends", [1, 2, 3, 4])
def test_a_chain_interpolates_its_points(bends):
    points = np.random.default_rng(0).standard_normal(bends + 2)
    knots = np.linspace(0, 1, bends + 2)
    for t in np.linspace(0, 1, 23):
        found = np.dot(coefficients("chain", bends + 2, float(t)), points)
        assert found == pytest.approx(np.interp(t, knots, points), abs=1e-12)


def test_untrained_bends_lie_on_the_straight_line():
    a, b = torch.zeros(2), torch.tensor([3.0, 6.0])
    torch.testing.assert_close(straight_bends((a, b), 2), torch.tensor([[1.0, 2.0], [2.0, 4.0]]))
    for curve in ("bezier", "chain"):
        torch.testing.assert_close(point_on_curve(curve, (a, b), straight_bends((a, b), 2), 0.3), 0.3 * b)


class Ring(nn.Module):
    """A loss that is zero on the unit circle, so that the straight line across it climbs a hill."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x):
        return x * (self.w.square().sum() - 1)


def ring():
    data = [(torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))] * 8
    objective = Objective(Ring(), nn.MSELoss(), data, errors=None)
    at = [torch.tensor(p, dtype=torch.float64) for p in ((1.0, 0.0), (-0.8, 0.6))]
    return objective, {"w": at[0]}, {"w": at[1]}


@pytest.mark.parametrize(("curve", "bends"), [("bezier", 1), ("bezier", 3), ("chain", 1), ("chain", 3)])
def test_training_finds_the_way_round_a_hill(curve, bends):
    objective, first, last = ring()
    settings = CurveSettings(curve=curve, bends=bends, epochs=60, lr=0.05)
    result = connect(objective, first, last, settings)
    along, straight = barrier(result.t, result.curve.train_loss), barrier(result.t, result.line.train_loss)
    assert straight.height == pytest.approx(0.81, abs=1e-3)  # the line passes the centre at sqrt(0.1)
    least = 0.6 if (curve, bends) == ("chain", 1) else 0.25  # two straight pieces must still cut the corner
    assert along.height < least * straight.height
    assert result.t[0] == 0
    assert result.t[-1] == 1
    assert len(result.t) == len(result.curve.train_loss) == len(result.line.train_loss) == 61
    assert result.curve.train_error == result.curve.test_loss == ()
    assert result.bends.shape == (bends, 2)


@pytest.mark.parametrize("make", [mlp, with_batchnorm])
def test_the_ends_reproduce_the_losses_of_the_networks(make):
    one, two, data = make(0), make(1), blobs()
    objective = Objective(one, nn.CrossEntropyLoss(), data, data[1:])
    result = connect(objective, one.state_dict(), two.state_dict(), CurveSettings(epochs=1, points=3))
    for index, net in ((0, one), (-1, two)):
        point = objective.measure(net.state_dict())
        for values in (result.curve, result.line):
            assert values.train_loss[index] == point.train.loss
            assert values.train_error[index] == point.train.error
            assert values.test_loss[index] == point.test.loss
            assert values.test_error[index] == point.test.error


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("stage", "at"), [("epochs of the bend", 3), ("points of the line", 2)])
def test_a_stopped_connection_goes_on_to_the_same_bits(tmp_path, stage, at):
    one, two, data = with_batchnorm(0), with_batchnorm(1), blobs()
    settings = CurveSettings(epochs=5, points=5)
    objective = Objective(one, nn.CrossEntropyLoss(), data)
    states = one.state_dict(), two.state_dict()
    whole = connect(objective, *states, settings)

    def kill(name, done, total):
        if (name, done) == (stage, at):
            raise KilledError

    request = connection_request(objective, *states, settings)
    with pytest.raises(KilledError):
        connect(objective, *states, settings, store=Store(tmp_path, request, "connect"), progress=kill)
    store = Store(tmp_path, request, "connect")
    assert len(store.values["epoch_losses"]) == (3 if at == 3 else 5)
    resumed = connect(objective, *states, settings, store=store)
    assert torch.equal(resumed.bends, whole.bends)
    assert resumed.epoch_losses == whole.epoch_losses
    assert resumed.curve == whole.curve


def test_another_seed_is_another_curve():
    one, two = mlp(0), mlp(1)
    objective = Objective(one, nn.CrossEntropyLoss(), blobs())
    bends = [
        connect(
            objective, one.state_dict(), two.state_dict(), CurveSettings(epochs=1, points=2, seed=s)
        ).bends
        for s in (0, 0, 1)
    ]
    assert torch.equal(bends[0], bends[1])
    assert not torch.equal(bends[0], bends[2])


def test_a_loss_that_is_not_finite_stops_it():
    objective, first, last = ring()
    with pytest.raises(DivergenceError, match="lower `lr`"):
        connect(objective, first, last, CurveSettings(epochs=20, lr=1e8))


def test_frozen_parameters_must_be_equal():
    one, two = mlp(0), mlp(1)
    one[0].bias.requires_grad_(False)
    objective = Objective(one, nn.CrossEntropyLoss(), blobs())
    with pytest.raises(UsageError, match=r"0\.bias does not require grad, but differs"):
        connect(objective, one.state_dict(), two.state_dict(), CurveSettings(epochs=1))


@pytest.mark.parametrize(
    "settings", [{"bends": 0}, {"epochs": 0}, {"points": 1}, {"lr": 0.0}, {"lr": math.nan}, {"momentum": 1.0}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UsageError, match="must be"):
        CurveSettings(**settings)


def test_barriers_are_measured_from_both_ends():
    found = barrier((0.0, 0.25, 0.5, 1.0), (3.0, 2.0, 4.0, 1.0))
    assert (found.height, found.above_first, found.above_last, found.at) == (1.0, 1.0, 3.0, 0.5)
    assert barrier((0.0, 1.0), (3.0, 1.0)).height == 0.0
    lost = barrier((0.0, 0.5, 1.0), (3.0, math.nan, 1.0))  # a loss beyond all numbers is no way through
    assert math.isnan(lost.height)
    assert lost.at == 0.5


def test_settled_compares_the_last_fifths():
    assert settled((*[5.0] * 6, 1.0, 1.0, 1.05, 1.05))
    assert not settled((*[5.0] * 6, 1.3, 1.3, 1.0, 1.0))
    assert not settled((1.0,))


def test_the_bend_is_trained_on_the_batches_that_are_given_and_measured_on_the_objectives():
    one, two, asked = mlp(0), mlp(1), []
    objective = Objective(one, nn.CrossEntropyLoss(), blobs())
    call = (objective, one.state_dict(), two.state_dict(), CurveSettings(epochs=3, points=3))
    with pytest.raises(UsageError, match="what the bends are trained on is recorded"):
        connect(*call, batches=lambda _: blobs())
    with pytest.raises(DataError, match="the curve's data are empty"):
        connect(*call, batches=lambda _: [], trained_on={})
    named = {"samples": 60}
    given = connect(*call, batches=lambda epoch: asked.append(epoch) or blobs()[::-1], trained_on=named)
    plain = connect(*call)
    assert (given.request["trained_on"], plain.request["trained_on"]) == (named, "measured data")
    assert asked == [1, 2, 3]
    assert given.epoch_losses != plain.epoch_losses
    assert given.line == plain.line


@pytest.mark.parametrize("sizes", [[4, 4, 1], [1, 4, 4]])
def test_a_single_sample_trains_with_its_neighbours_where_there_is_batchnorm(sizes):
    x, y = (torch.cat(parts) for parts in zip(*blobs(9), strict=True))
    data = list(zip(x.split(sizes), y.split(sizes), strict=True))
    joined = [4, 5] if sizes[-1] == 1 else [5, 4]
    alike = list(zip(x.split(joined), y.split(joined), strict=True))
    ends = with_batchnorm().state_dict(), with_batchnorm(seed=1).state_dict()
    settings = CurveSettings(epochs=2, points=3)
    found, expected = (
        connect(Objective(with_batchnorm(), nn.CrossEntropyLoss(), each), *ends, settings).curve
        for each in (data, alike)
    )
    assert found.train_loss == pytest.approx(expected.train_loss, rel=1e-9)
