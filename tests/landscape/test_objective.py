import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from dirprune.errors import DataError, RunFolderError, UsageError
from dirprune.landscape import (
    CurveSettings,
    Eigenpairs,
    EigenSettings,
    Objective,
    PlaneSettings,
    connect,
    eigen_request,
    keep,
    measure_plane,
    prune_in_one_shot,
    top_eigenpairs,
)
from dirprune.landscape.batchnorm import reestimate
from tests.landscape.problems import blobs, mlp, with_batchnorm


def test_measures_the_mean_over_samples_not_over_batches():
    net, data = mlp(), blobs()
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    point = Objective(net, nn.CrossEntropyLoss(), data, data[:1]).measure({})
    outputs = net(x)
    assert point.train.loss == pytest.approx(functional.cross_entropy(outputs, y).item(), rel=1e-12)
    assert point.train.error == (outputs.argmax(1) != y).double().mean().item()
    assert point.test.loss == pytest.approx(
        functional.cross_entropy(outputs[: len(data[0][1])], data[0][1]).item()
    )


def test_a_state_in_another_dtype_is_taken_in_that_of_the_model():
    net, data = with_batchnorm().float(), blobs(dtype=torch.float32)
    net.register_buffer("offset", torch.full((1,), 0.1))
    net[4].bias.requires_grad_(False)
    objective = Objective(net, nn.CrossEntropyLoss(), data)
    state = net.state_dict()
    wide = {name: value.double() if value.is_floating_point() else value for name, value in state.items()}
    assert objective.measure(wide) == objective.measure(state)
    torch.manual_seed(0)
    expected = objective.training_loss(state, *data[0])
    torch.manual_seed(0)
    assert torch.equal(objective.training_loss(wide, *data[0]), expected)
    objective.identity(first=state, last=wide)  # what is not trained is the same


def test_the_callers_model_is_never_changed():
    """Parameters, buffers, gradients, modes, requires_grad, and the global generator of random numbers."""
    net, data = with_batchnorm(), blobs()
    net.train()
    net[3].eval()
    net[4].bias.requires_grad_(False)
    net[0].weight.grad = torch.ones_like(net[0].weight)
    before = copy.deepcopy(net)
    objective = Objective(net, nn.CrossEntropyLoss(), data, data)
    other = {name: value + 0.1 for name, value in net.state_dict().items() if value.is_floating_point()}
    other["4.bias"] = net.state_dict()["4.bias"]
    random = torch.get_rng_state()
    pairs = top_eigenpairs(objective, net.state_dict(), EigenSettings(k=2))
    prune_in_one_shot(objective, net.state_dict(), pairs)
    result = connect(objective, net.state_dict(), other, CurveSettings(epochs=2, points=3))
    points = objective.vector(), result.bends[0], objective.vector(other)
    measure_plane(objective, points, PlaneSettings(size=2))

    assert torch.equal(random, torch.get_rng_state())
    for (name, value), (_, old) in zip(net.state_dict().items(), before.state_dict().items(), strict=True):
        assert torch.equal(value, old), name
    for (name, p), (_, old) in zip(net.named_parameters(), before.named_parameters(), strict=True):
        assert p.requires_grad == old.requires_grad, name
        assert (p.grad is None) == (name != "0.weight"), name
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert [m.training for m in net.modules()] == [m.training for m in before.modules()]
    assert net[1].momentum == before[1].momentum


def test_batchnorm_statistics_are_those_of_all_samples():
    net, data = nn.Sequential(nn.BatchNorm1d(4).double()), blobs()
    found = reestimate(net, {}, data)
    x = [inputs for inputs, _ in data]
    n = sum(map(len, x))
    torch.testing.assert_close(found["0.running_mean"], torch.cat(x).mean(0))
    torch.testing.assert_close(found["0.running_var"], sum(len(b) * b.var(0) for b in x) / n)
    assert torch.equal(net[0].running_mean, torch.zeros(4, dtype=torch.float64))
    assert net[0].momentum == 0.1


@pytest.mark.parametrize("sort", [False, True])
def test_batches_of_one_class_each_are_told(sort):
    """Of the same samples and weights they give other statistics."""
    net, (x, y) = with_batchnorm(), (torch.cat(parts) for parts in zip(*blobs(600), strict=True))
    order = torch.argsort(y, stable=True) if sort else torch.arange(len(y))
    data = [(x[rows], y[rows]) for rows in order.split(60)]
    told = pytest.warns(UserWarning, match="classes of the data are not mixed")
    with told if sort else nullcontext():
        reestimate(net, net.state_dict(), data)


def test_a_layer_that_runs_twice_has_the_statistics_of_all_it_saw():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4).double()

        def forward(self, x):
            return torch.cat([self.norm(x), self.norm(3 * x[:2] + 1)])

    x = [inputs for inputs, _ in blobs()]
    saw = [part for inputs in x for part in (inputs, 3 * inputs[:2] + 1)]
    data = [(inputs, torch.zeros(len(inputs))) for inputs in x]
    net = Twice()
    found = reestimate(net, {}, data)
    torch.testing.assert_close(found["norm.running_mean"], torch.cat(saw).mean(0))
    assert not net.norm._forward_pre_hooks


@pytest.mark.parametrize("broken", [False, True])
def test_re_estimation_restores_the_statistics_of_the_caller(broken):
    net, data = with_batchnorm(), blobs()
    net[1].momentum = None  # a cumulative average
    before = {name: value.clone() for name, value in net.state_dict().items()}
    if broken:
        data = [*data, (torch.zeros(2, 9, dtype=torch.float64), torch.zeros(2))]
        with pytest.raises(RuntimeError):
            reestimate(net, {}, data)
    else:
        found = reestimate(net, {}, data)
        assert not torch.equal(found["1.running_mean"], before["1.running_mean"])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net[1].momentum is None


@pytest.mark.parametrize("normalised", [False, True])
def test_re_estimation_leaves_every_mode_as_it_was(normalised):
    net = with_batchnorm() if normalised else mlp()
    net.train()
    net[2].eval()
    before = [part.training for part in net.modules()]
    reestimate(net, {}, blobs())
    assert [part.training for part in net.modules()] == before


@pytest.mark.parametrize(
    ("net", "loss", "targets", "found"),
    [
        (nn.Linear(3, 1), nn.MSELoss(), torch.zeros(4, 1), "(4, 1) and targets (4, 1) of torch.float32"),
        (nn.Linear(3, 2), nn.MSELoss(), torch.zeros(4, 2), "(4, 2) and targets (4, 2)"),
        (
            nn.Sequential(nn.Linear(3, 2), nn.Flatten(0)),
            nn.MSELoss(),
            torch.zeros(8),
            "(8,) and targets (8,) of torch.float32",
        ),
        (nn.Linear(3, 2), nn.CrossEntropyLoss(), torch.full((4, 2), 0.5), "(4, 2) and targets (4, 2)"),
        (
            nn.Sequential(nn.Linear(3, 6), nn.Unflatten(1, (2, 3))),
            nn.CrossEntropyLoss(),
            torch.zeros(4, 3, dtype=torch.int64),
            "(4, 2, 3) and targets (4, 3) of torch.int64",
        ),
    ],
)
def test_errors_of_what_does_not_classify_are_not_made_up(net, loss, targets, found):
    data = [(torch.ones(4, 3), targets)]
    with pytest.raises(UsageError) as caught:
        Objective(net, loss, data).measure({})
    assert f"not for outputs {found}" in str(caught.value)
    assert str(caught.value).endswith("pass errors=None")
    assert Objective(net, loss, data, errors=None).measure({}).train.error is None


class Scaled(nn.Module):
    """A network that multiplies its outputs by a buffer."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.net = with_batchnorm()
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))

    def forward(self, x):
        return self.scale * self.net(x)


def of_spectral_norm(steps: int) -> nn.Module:
    """A network whose buffers change with every pass in training mode, after some of them."""
    net = mlp()
    spectral_norm(net[0])
    for _ in range(steps):
        net.train()(blobs()[0][0])
    return net


@pytest.mark.parametrize(
    ("model", "checkpoint"),
    [(Scaled(1.0), Scaled(3.0)), (of_spectral_norm(0), of_spectral_norm(20))],
    ids=["scale", "spectral norm"],
)
def test_a_checkpoint_is_measured_with_its_own_buffers(model, checkpoint):
    (x, y), state = blobs()[0], checkpoint.state_dict()
    objective = Objective(model, nn.CrossEntropyLoss(), [(x, y)])
    whole = copy.deepcopy(checkpoint)
    if isinstance(whole, Scaled):
        torch.optim.swa_utils.update_bn([x], whole)
    expected = functional.cross_entropy(whole.eval()(x), y).item()
    assert objective.measure(state).train.loss == pytest.approx(expected, rel=1e-12)
    result = connect(objective, state, state, CurveSettings(epochs=1, points=2))
    assert result.curve.train_loss == pytest.approx((expected,) * 2, rel=1e-12)
    pairs = top_eigenpairs(objective, state, EigenSettings(k=1))
    assert pairs.loss == pytest.approx(functional.cross_entropy(checkpoint.eval()(x), y).item(), rel=1e-12)
    assert prune_in_one_shot(objective, state, pairs).dense.train_loss == pytest.approx(
        (expected,), rel=1e-12
    )
    assert all(torch.equal(value, checkpoint.state_dict()[name]) for name, value in state.items())


@pytest.mark.parametrize(
    ("first", "last", "name"),
    [
        (Scaled(1.0), Scaled(3.0), "scale"),
        (of_spectral_norm(0), of_spectral_norm(20), "0.parametrizations.weight.0._u"),
    ],
)
def test_networks_with_buffers_that_nothing_between_them_has_are_refused(first, last, name):
    objective = Objective(first, nn.CrossEntropyLoss(), blobs())
    with pytest.raises(UsageError, match=f"the buffer {name} of the networks first and last differs"):
        connect(objective, first.state_dict(), last.state_dict())


def test_the_loss_with_batchnorm_is_that_of_a_network_with_fresh_statistics():
    net, data = with_batchnorm(), [(torch.cat([x for x, _ in blobs()]), torch.cat([y for _, y in blobs()]))]
    measured = Objective(net, nn.CrossEntropyLoss(), data).measure({})
    fresh = copy.deepcopy(net).eval()
    torch.optim.swa_utils.update_bn([x for x, _ in data], fresh[:2])
    fresh.eval()
    assert measured.train.loss == pytest.approx(
        functional.cross_entropy(fresh(data[0][0]), data[0][1]).item()
    )
    stale = functional.cross_entropy(copy.deepcopy(net).eval()(data[0][0]), data[0][1]).item()
    assert abs(measured.train.loss - stale) > 1e-3


def test_shared_parameters_are_counted_once():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()
    net[1].weight = net[0].weight
    objective = Objective(net, nn.CrossEntropyLoss(), blobs())
    assert objective.numel == 16 + 4 + 4
    zero = objective.measure(objective.weights(torch.zeros(24, dtype=torch.float64)))
    assert zero.train.loss == pytest.approx(torch.log(torch.tensor(4.0)).item())


class Changing:
    """Data of another order at every pass."""

    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        x, y = blobs()[0]
        return iter([(x.roll(self.passes, 0), y.roll(self.passes, 0))])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Objective(nn.ReLU(), nn.CrossEntropyLoss(), blobs()), UsageError, "no parameter"),
        (lambda: Objective(mlp(), nn.CrossEntropyLoss(reduction="sum"), blobs()), UsageError, "'sum'"),
        (
            lambda: Objective(mlp(), nn.CrossEntropyLoss(), iter(blobs())),
            UsageError,
            "used up after one pass",
        ),
        (lambda: Objective(mlp(), nn.CrossEntropyLoss(), []).data, DataError, "the train data are empty"),
        (
            lambda: Objective(mlp(), nn.CrossEntropyLoss(), blobs(), []).measure({}),
            DataError,
            "the test data are empty",
        ),
        (lambda: Objective(mlp(), nn.CrossEntropyLoss(), Changing()).data, DataError, "two passes"),
        (
            lambda: Objective(mlp(), nn.CrossEntropyLoss(), [({"x": x}, y) for x, y in blobs()]).data,
            DataError,
            "targets; it is tuple(dict, Tensor)",
        ),
        (
            lambda: Objective(mlp(), nn.CrossEntropyLoss(), [((x, x), y) for x, y in blobs()]).measure({}),
            DataError,
            "targets; it is tuple(tuple(Tensor, Tensor), Tensor)",
        ),
        (
            lambda: Objective(mlp(), nn.CrossEntropyLoss(), [(x, y, y) for x, y in blobs()]).data,
            DataError,
            "two tensors, inputs and targets",
        ),
        (
            lambda: Objective(mlp(), nn.CrossEntropyLoss(ignore_index=2), blobs()).data,
            DataError,
            "a target of the train data is 2, which the loss ignores",
        ),
        (lambda: Objective(mlp(), nn.CrossEntropyLoss(), blobs()).vector({}), UsageError, "no 0.weight"),
        (
            lambda: Objective(mlp(), nn.CrossEntropyLoss(), blobs()).vector(mlp(hidden=6).state_dict()),
            UsageError,
            "must have shape (5, 4), not (6, 4)",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_single_sample_at_the_end_joins_the_batch_before_it():
    net, (x, _) = with_batchnorm(), (torch.cat(parts) for parts in zip(*blobs(9), strict=True))
    cut, joined = (
        reestimate(net, net.state_dict(), [(part, torch.zeros(len(part))) for part in x.split(sizes)])
        for sizes in ([4, 4, 1], [4, 5])
    )
    assert cut.keys() == joined.keys() > set()
    for name, value in joined.items():
        assert torch.equal(cut[name], value)


def smoothed(smoothing):
    return nn.CrossEntropyLoss(label_smoothing=smoothing)


def rectified():
    net = mlp()
    net[1] = nn.ReLU()
    return net


@pytest.mark.parametrize(
    ("key", "model", "loss"),
    [
        ("loss", mlp(), smoothed(0.1)),
        ("loss", mlp(), functional.cross_entropy),
        ("loss", mlp(), partial(functional.cross_entropy, label_smoothing=0.1)),
        ("module", rectified(), smoothed(0.0)),
        ("module", nn.Sequential(*mlp(), nn.Dropout(0.5)), smoothed(0.0)),
    ],
)
def test_a_result_of_another_loss_or_module_is_not_handed_out(tmp_path, key, model, loss):
    """The weights are the same in all of them."""
    one, other = Objective(mlp(), smoothed(0.0), blobs()), Objective(model, loss, blobs())
    state, settings = mlp().state_dict(), EigenSettings(k=1)
    request = eigen_request(one, state, settings)
    assert request == eigen_request(Objective(mlp(), smoothed(0.0), blobs()), state, settings)
    pairs = keep(Eigenpairs, tmp_path, request, {}, lambda _: top_eigenpairs(one, state, settings))
    with pytest.raises(RunFolderError, match=f"was made with {key}="):
        keep(Eigenpairs, tmp_path, eigen_request(other, state, settings), {}, lambda _: pairs)
    with pytest.raises(UsageError, match="the eigenpairs were computed at other"):
        prune_in_one_shot(other, state, pairs)


def test_tensors_of_a_loss_are_part_of_it():
    one, two = (
        Objective(mlp(), nn.BCEWithLogitsLoss(pos_weight=torch.tensor(w)), blobs()).identity()["loss"]
        for w in (1.0, 2.0)
    )
    assert one != two


def test_eigenpairs_of_other_data_are_refused():
    one, other = (Objective(mlp(), nn.CrossEntropyLoss(), blobs(n)) for n in (40, 30))
    pairs = top_eigenpairs(one, mlp().state_dict(), EigenSettings(k=1))
    with pytest.raises(UsageError, match="at other training data"):
        prune_in_one_shot(other, mlp().state_dict(), pairs)


def test_a_loss_that_weighs_classes_is_refused():
    """Its mean over a batch is one over weights, so that batches could not be put together."""
    with pytest.raises(UsageError, match="weighs classes"):
        Objective(mlp(), nn.CrossEntropyLoss(weight=torch.ones(3).double()), blobs())


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (partial(functional.cross_entropy, reduction="sum"), "its reduction is 'sum'"),
        (partial(functional.cross_entropy, weight=torch.ones(3).double()), "weighs classes"),
        (nn.CrossEntropyLoss(reduction="none"), "its reduction is 'none'"),
    ],
)
def test_a_function_is_asked_for_its_settings_as_a_module_is(loss, message):
    with pytest.raises(UsageError, match=message):
        Objective(mlp(), loss, blobs())


@pytest.mark.parametrize("loss", [functional.cross_entropy, nn.CrossEntropyLoss()])
def test_a_target_that_a_loss_ignores_is_refused(loss):
    x, y = blobs()[0]
    objective = Objective(mlp(), loss, [(x, torch.where(y == 0, -100, y))], errors=None)
    with pytest.raises(DataError, match="is -100, which the loss ignores"):
        objective.measure({})


@pytest.mark.parametrize(
    "loss",
    [nn.BCEWithLogitsLoss(weight=torch.tensor([1.0, 2.0, 3.0])), nn.KLDivLoss(reduction="batchmean")],
)
def test_losses_that_are_a_mean_over_samples_in_another_way_are_taken(loss):
    x, _ = (torch.cat(parts) for parts in zip(*blobs(12), strict=True))
    net, y = nn.Sequential(mlp(), nn.LogSoftmax(1)), torch.rand(12, 3, dtype=torch.float64)
    whole = loss(net(x), y).item()
    halves = [(x[:5], y[:5]), (x[5:], y[5:])]
    assert Objective(net, loss, halves, errors=None).measure({}).train.loss == pytest.approx(whole, rel=1e-6)


def test_what_is_not_trained_is_that_of_the_state():
    net, other = mlp(), mlp(seed=1)
    net[0].requires_grad_(False)
    x, y = (torch.cat(parts) for parts in zip(*blobs(), strict=True))
    found = Objective(net, nn.CrossEntropyLoss(), blobs()).measure(other.state_dict()).train.loss
    assert found == pytest.approx(functional.cross_entropy(other(x), y).item(), rel=1e-12)
