import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from dirprune.core.directional import direction_scores
from dirprune.errors import RunFolderError, UsageError
from dirprune.landscape import (
    EigenSettings,
    Norms,
    Objective,
    OneShot,
    OneShotSettings,
    ProjectionSeries,
    Store,
    keep,
    norm_series,
    project,
    projection_request,
    prune_in_one_shot,
    subspace_fraction,
    top_eigenpairs,
)
from tests.landscape.problems import blobs, mlp, quadratic, with_batchnorm

CURVATURES = [9.0, 7.0, 5.0] + [0.01 * i for i in range(17)]


def state(vector):
    return {"net.weight": torch.as_tensor(vector, dtype=torch.float64).view(1, -1)}


@pytest.mark.parametrize("sharp", [0.0, 0.3, 0.8, 1.0])
def test_projection_of_a_vector_built_from_known_eigenvectors(sharp):
    """The Hessian is diagonal, so that the first three unit vectors span its sharp directions."""
    delta = np.zeros(20)
    delta[:3] = sharp / math.sqrt(3)
    delta[5] = math.sqrt(1 - sharp**2)
    sgd = np.linspace(1, 2, 20)
    objective = quadratic(CURVATURES)
    series = project(objective, (4,), lambda _: (state(sgd), state(sgd + 3 * delta)), EigenSettings(k=3))
    (step,) = series.steps
    assert step.fraction == pytest.approx(sharp, abs=1e-7)
    assert step.distance == pytest.approx(3.0)
    assert step.values == pytest.approx((9.0, 7.0, 5.0))
    assert step.loss_sgd == pytest.approx(0.5 * np.sum(np.array(CURVATURES) * sgd**2))
    assert step.loss_grda == pytest.approx(0.5 * np.sum(np.array(CURVATURES) * (sgd + 3 * delta) ** 2))
    assert series.by_chance == pytest.approx(math.sqrt(3 / 20))


def test_the_loss_of_the_hessian_is_that_of_the_checkpoints_statistics():
    net, data = with_batchnorm(), blobs()
    objective = Objective(net, nn.CrossEntropyLoss(), data)
    (step,) = project(objective, (1,), lambda _: (net.state_dict(),) * 2, EigenSettings(k=1)).steps
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    assert step.loss_hessian == pytest.approx(nn.functional.cross_entropy(net.eval()(x), y).item())
    assert abs(step.loss_hessian - step.loss_sgd) > 1e-3


def test_equal_weights_have_no_fraction():
    objective = quadratic(CURVATURES)
    series = project(objective, (0,), lambda _: (state(np.ones(20)), state(np.ones(20))), EigenSettings(k=2))
    assert series.steps[0].fraction is None
    assert subspace_fraction(torch.zeros(3), torch.eye(3)) is None


def test_chance_is_the_root_mean_square_over_random_directions():
    torch.manual_seed(0)
    u = torch.linalg.qr(torch.randn(40, 4)).Q.T
    squares = [subspace_fraction(torch.randn(40), u) ** 2 for _ in range(3000)]
    assert math.sqrt(np.mean(squares)) == pytest.approx(math.sqrt(4 / 40), rel=0.03)


def test_the_series_of_another_pair_is_not_handed_out(tmp_path):
    objective, settings = quadratic(CURVATURES), EigenSettings(k=2)

    def kept(step):
        def load(epoch):
            return state(np.ones(20)), state(np.ones(20) + step * np.eye(20)[0])

        request = projection_request(objective, (1,), load, settings)
        return keep(
            ProjectionSeries,
            tmp_path,
            request,
            {},
            lambda store: project(objective, (1,), load, settings, store=store),
        )

    assert kept(3.0).steps[0].distance == kept(3.0).steps[0].distance == pytest.approx(3.0)
    with pytest.raises(RunFolderError, match=r"project\.json was made with networks"):
        kept(4.0)


def test_a_stopped_series_keeps_every_epoch_that_is_done(tmp_path):
    objective, loaded, hashed = quadratic(CURVATURES), [], [1, 2, 3]
    request = {"any": 1}

    def load(epoch):
        loaded.append(epoch)
        if loaded == [*hashed, 1, 2]:
            raise KeyboardInterrupt
        return state(np.ones(20)), state(np.ones(20) + epoch * np.eye(20)[0])

    with pytest.raises(KeyboardInterrupt):
        project(objective, (1, 2, 3), load, EigenSettings(k=2), store=Store(tmp_path, request, "project"))
    series = project(
        objective, (1, 2, 3), load, EigenSettings(k=2), store=Store(tmp_path, request, "project")
    )
    assert loaded == [*hashed, 1, 2, *hashed, 2, 3]
    assert [step.epoch for step in series.steps] == [1, 2, 3]
    assert [step.distance for step in series.steps] == pytest.approx([1, 2, 3])
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]  # no products of finished epochs


def test_a_series_of_nothing_is_refused():
    with pytest.raises(UsageError, match="`snapshots`"):
        project(quadratic(CURVATURES), (), lambda _: None)


def test_norms_are_numpys():
    w = torch.randn(1000)
    w[::3] = 0
    found = Norms.of(w)
    w = w.double().numpy()
    assert found.l0 == np.linalg.norm(w, 0)
    assert (found.l1, found.l2) == pytest.approx((np.linalg.norm(w, 1), np.linalg.norm(w, 2)), rel=1e-12)
    assert found.ratio == pytest.approx(found.l2 / found.l1)
    assert math.isnan(Norms.of(torch.zeros(3)).ratio)


def test_norms_of_a_series(tmp_path):
    objective = quadratic([1.0, 2.0])
    result = norm_series(objective, (0, 7), lambda epoch: (state([3.0, -4.0]), state([epoch, 0.0])))
    assert result.epochs == (0, 7)
    assert [n.l2 for n in result.sgd] == [5.0, 5.0]
    assert [n.l0 for n in result.grda] == [0, 1]
    digests = [[objective.digest(state(w)) for w in ([3.0, -4.0], [e, 0.0])] for e in (0, 7)]
    assert result.request["networks"] == digests
    assert json.loads(result.save(tmp_path, {}).read_text())["sgd"][0]["ratio"] == 5 / 7


def test_one_shot_pruning_leaves_the_sharp_directions_alone():
    """The sharp weight is the smallest: only directional pruning keeps it, seen by its share of the loss."""
    objective = quadratic([100.0] + [1e-6] * 9)
    w = state([0.1] + [1.0 + 0.1 * i for i in range(9)])
    pairs = top_eigenpairs(objective, w, EigenSettings(k=1))
    result = prune_in_one_shot(objective, w, pairs, OneShotSettings(sparsities=(0.1, 0.5)))
    assert result.sparsities == (0.1, 0.5)
    assert result.dense.train_loss[0] == pytest.approx(0.5, rel=1e-3)
    assert result.directional.train_loss == pytest.approx((0.5, 0.5), rel=1e-3)
    assert max(result.soft.train_loss) < 1e-4
    assert max(result.magnitude.train_loss) < 1e-4
    assert result.mean_score == pytest.approx(0.9)
    assert result.targets == (0.1, 0.5)
    assert result.strengths == pytest.approx((1.0, 1.4))  # the smallest, and the fifth, of the flat weights


def test_one_shot_at_given_strengths_and_beside_the_twin(tmp_path):
    objective = quadratic([100.0] + [1.0] * 9)
    w, grda = state([0.1] + [1.0 + 0.1 * i for i in range(9)]), state([0.1] * 3 + [0.0] * 7)
    pairs = top_eigenpairs(objective, w, EigenSettings(k=1))
    settings = OneShotSettings(sparsities=(0.1,), strengths=(1.45, 0.0))
    result = prune_in_one_shot(objective, w, pairs, settings, twin=grda)
    assert result.sparsities == (0.1, 0.5, 0.0)
    assert result.strengths == pytest.approx((1.0, 1.45, 0.0))
    kept = np.maximum(np.linspace(1.0, 1.8, 9) - 1.45, 0)
    assert result.directional.train_loss[1] == pytest.approx(0.5 * (100 * 0.1**2 + np.sum(kept**2)))
    assert math.isnan(result.targets[2])
    assert result.twin.sparsity == 0.7
    assert result.twin.measured.train_loss == pytest.approx((0.5 * (1.0 + 0.02),))
    assert result.request["twin"] == objective.digest(grda)
    result.save(tmp_path, {})
    held = OneShot.load(tmp_path)
    assert held.twin == result.twin
    assert (held.eigenvalues, held.residuals) == (pairs.values, pairs.residuals)
    assert OneShotSettings(strengths=(1.0,)).sparsities == ()
    with pytest.raises(UsageError, match="`strengths`"):
        OneShotSettings(strengths=(-1.0,))


def test_one_shot_at_equal_sparsity_and_before():
    net, data = mlp(), blobs()
    objective = Objective(net, nn.CrossEntropyLoss(), data, data)
    pairs = top_eigenpairs(objective, net.state_dict(), EigenSettings(k=20))
    result = prune_in_one_shot(objective, net.state_dict(), pairs, OneShotSettings(sparsities=(0.0, 0.5)))
    dense = objective.measure({}).train.loss
    assert result.dense.train_loss == (dense,)
    for values in (result.directional, result.soft, result.magnitude):
        assert values.train_loss[0] == pytest.approx(dense, rel=1e-12)
        assert len(values.test_error) == 2
    w = objective.vector()
    cut = w.abs().sort().values[math.ceil(0.5 * len(w)) - 1]
    kept = objective.measure(objective.weights(w * (w.abs() > cut)))
    assert result.magnitude.train_loss[1] == kept.train.loss
    scores = direction_scores(w, pairs.vectors)
    assert result.negative_scores == (scores < 0).double().mean().item() > 0


def test_eigenpairs_of_other_weights_are_refused():
    net, data = mlp(), blobs()
    objective = Objective(net, nn.CrossEntropyLoss(), data)
    pairs = top_eigenpairs(objective, mlp(1).state_dict(), EigenSettings(k=2))
    with pytest.raises(UsageError, match="other weights"):
        prune_in_one_shot(objective, net.state_dict(), pairs)


@pytest.mark.parametrize("sparsities", [(1.1,), (-0.1,), (float("nan"),)])
def test_sparsities_out_of_range_are_refused(sparsities):
    with pytest.raises(UsageError, match="`sparsities`"):
        OneShotSettings(sparsities=sparsities)
