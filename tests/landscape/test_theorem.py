"""Where the theorem is exact - a quadratic whose curvature is nothing or a lot - and what it says then."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from dirprune.errors import UsageError
from dirprune.landscape import Store, TheoremSettings, check_theorem, theorem_request
from dirprune.landscape.theorem import agreement, finite_time_scores
from tests.landscape.problems import blobs, mlp, with_batchnorm


class Rotated(nn.Module):
    """L(w) = 1/2 |A (w - w*)|^2 with A of rank 3: the other directions are flat."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        start = torch.randn(12, dtype=torch.float64)
        self.w = nn.Parameter(start.sign() * (start.abs() + 1.0))
        rows = torch.linalg.qr(torch.randn(12, 3, dtype=torch.float64)).Q.T
        self.register_buffer("rows", rows)
        self.register_buffer("offset", rows @ self.w.detach())

    def forward(self, x):
        return (self.rows @ self.w - self.offset).expand(len(x), -1)


def loss(outputs, targets):
    return 0.5 * outputs.square().sum(dim=1).mean()


DATA = [(torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))]
SETTINGS = TheoremSettings(rates=(0.05,), times=(5.0, 20.0, 100.0), c=0.02, mu=0.6)


def test_on_a_quadratic_the_distance_falls_to_zero_over_time():
    result = check_theorem(Rotated(), loss, DATA, SETTINGS)
    distances = [row.distance for row in result.rows]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.02 < distances[0]
    assert all(row.distance_plain > 0.3 for row in result.rows)  # without directions it would not hold
    last = result.rows[-1]
    assert last.sharp == 3
    assert last.greatest == pytest.approx(1.0)
    assert last.correlation > 0.999
    assert last.strength == pytest.approx(0.02 * math.sqrt(0.05) * 100**0.6)
    assert last.steps == 2000
    assert last.loss_sgd < 1e-20


def test_the_strength_is_that_of_the_steps_that_were_taken():
    """At rate .7 and t = 1 there is one step, and gRDA stands at t = .7."""
    (row,) = check_theorem(Rotated(), loss, DATA, replace(SETTINGS, rates=(0.7,), times=(1.0,))).rows
    assert row.steps == 1
    assert row.strength == pytest.approx(0.02 * 0.7**1.1)


def test_at_a_finite_time_the_response_of_the_quadratic_is_met_early_on():
    """Long before the limit: small threshold, so that no sign changes; Euler steps are what is left."""
    settings = TheoremSettings(rates=(0.005,), times=(0.5, 2.0), c=0.02, mu=0.6)
    for row in check_theorem(Rotated(), loss, DATA, settings).rows:
        assert row.distance > 0.1
        assert row.distance_finite < 0.03
        assert row.correlation_finite > 0.999


@pytest.mark.parametrize(
    ("h", "t", "mu"), [(0.3, 2.0, 0.6), (4.0, 5.0, 0.51), (0.0, 1.0, 0.7), (-1.0, 9.0, 0.6)]
)
def test_the_finite_time_response_is_its_integral(h, t, mu):
    """(mu / t^mu) times the integral of exp(-h (t - s)) s^(mu - 1) over 0..t, by scipy."""
    flat = max(h, 0.0)
    expected = quad(lambda s: math.exp(-flat * (t - s)) * mu * s ** (mu - 1) / t**mu, 0, t)[0]
    one = torch.ones(1, 1, dtype=torch.float64)
    found = finite_time_scores(one[0], torch.tensor([h]).double(), one, time=t, mu=mu)
    assert found.item() == pytest.approx(expected, abs=2e-4)


def test_the_terms_of_the_comparison():
    sgd = torch.tensor([2.0, -1.0, 0.5, 0.6], dtype=torch.float64)
    grda = torch.tensor([1.5, 0.0, 0.0, 0.6], dtype=torch.float64)
    hessian = torch.diag(torch.tensor([0.0, 0.0, 0.0, 5.0], dtype=torch.float64))
    found = agreement(sgd, grda, hessian, rate=1.0, time=1.0, settings=TheoremSettings(c=0.8))
    v = np.array([1.2, -0.2, 0.0, 0.6])  # s = (1, 1, 1, 0), lambda = 0.8
    assert found["zeros_directional"] == 0.25
    assert found["zeros_grda"] == 0.5
    assert found["overlap"] == 0.5
    assert found["overlap_plain"] == pytest.approx(1 / 3)
    assert (found["mean_score"], found["strength"], found["sharp"]) == (0.75, pytest.approx(0.8), 1)
    assert found["signs"] == 1.0
    moved = np.linalg.norm([0.5, 1.0, 0.5, 0.0])
    assert found["distance"] == pytest.approx(np.linalg.norm(grda.numpy() - v) / moved)
    soft = np.array([1.2, -0.2, 0.0, 0.0])
    assert found["distance_plain"] == pytest.approx(np.linalg.norm(grda.numpy() - soft) / moved)
    assert found["correlation"] == pytest.approx(1.0)  # two points: (0.625, 1) and (0, 0)
    assert found["mean_effective"] == pytest.approx(0.625 / 2)


def test_twins_draw_the_same_dropout_whatever_was_drawn_before():
    """With a threshold that moves nothing both are SGD, and one check is like another."""
    model = nn.Sequential(mlp(), nn.Dropout(0.5), nn.Linear(3, 3).double())
    checks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        settings = TheoremSettings(rates=(0.1,), times=(1.0, 5.0), c=1e-12)
        checks.append(check_theorem(model, nn.functional.cross_entropy, blobs(), settings))
        assert torch.equal(torch.get_rng_state(), before)
    assert repr(checks[0].rows) == repr(checks[1].rows)
    assert all(row.loss_grda == pytest.approx(row.loss_sgd, rel=1e-9) for row in checks[0].rows)
    other = check_theorem(model, nn.functional.cross_entropy, blobs(), replace(settings, seed=1))
    assert other.rows[-1].loss_sgd != checks[0].rows[-1].loss_sgd


def test_a_stopped_check_keeps_every_rate_that_is_done(tmp_path):
    settings = TheoremSettings(rates=(0.5, 0.25), times=(1.0,))
    model, started = mlp(), []
    request = {"any": 1}

    def progress(stage, done, total):
        started.append(stage)
        if stage == "steps at rate 0.25" and started.count(stage) == 1 and len(started) == 3:
            raise KeyboardInterrupt

    call = (model, nn.functional.cross_entropy, blobs(), settings)
    with pytest.raises(KeyboardInterrupt):
        check_theorem(*call, store=Store(tmp_path, request, "theorem"), progress=progress)
    started.clear()
    resumed = check_theorem(
        *call, store=Store(tmp_path, request, "theorem"), progress=lambda *a: started.append(a[0])
    )
    assert "steps at rate 0.5" not in started
    assert repr(resumed.rows) == repr(check_theorem(*call).rows)  # NaN is not equal to NaN


def test_the_network_is_not_changed_and_a_large_one_is_refused():
    model = mlp()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_theorem(model, nn.functional.cross_entropy, blobs(), TheoremSettings(rates=(0.5,), times=(1.0,)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(UsageError, match="5000 weights or fewer"):
        check_theorem(nn.Linear(100, 100), nn.functional.cross_entropy, blobs())


@pytest.mark.parametrize("settings", [{"rates": ()}, {"times": (2.0, 1.0)}, {"c": 0.0}, {"mu": 1.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UsageError, match="ascending times"):
        TheoremSettings(**settings)


@pytest.mark.parametrize("times", [(0.4,), (1.0, 1.2)])
def test_times_that_no_step_tells_apart_are_refused(times):
    with pytest.raises(UsageError, match="at rate 1 a step takes 1 of time"):
        TheoremSettings(rates=(0.1, 1.0), times=times)


def test_the_request_names_the_start():
    from dirprune.landscape import Objective

    objective = Objective(mlp(), nn.functional.cross_entropy, blobs())
    one, two = (theorem_request(objective, mlp(seed), SETTINGS) for seed in (0, 1))
    assert one["start"] != two["start"]
    assert one["flat_below"] == "1 / t"


def test_a_single_sample_at_the_end_is_no_trouble_to_batchnorm():
    x, y = (torch.cat(parts) for parts in zip(*blobs(9), strict=True))
    settings = TheoremSettings(rates=(0.1,), times=(0.2,), c=1e-3)
    rows = [
        check_theorem(
            with_batchnorm(),
            nn.CrossEntropyLoss(),
            list(zip(x.split(sizes), y.split(sizes), strict=True)),
            settings,
        ).rows
        for sizes in ([4, 4, 1], [4, 5])
    ]
    assert rows[0][0].loss_grda == pytest.approx(rows[1][0].loss_grda, rel=1e-12)
