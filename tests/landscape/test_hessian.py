"""Oracles: closed forms, central differences in float64, torch's dense Hessian, numpy's eigenvalues."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from dirprune.errors import DataError, UsageError
from dirprune.landscape import (
    EigenSettings,
    HessianOperator,
    NotConvergedError,
    Objective,
    Store,
    hessian,
    top_eigenpairs,
)
from tests.landscape.problems import blobs, mlp, quadratic, with_batchnorm
from tests.landscape.test_objective import Changing


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_product_is_the_closed_form_of_linear_regression():
    torch.manual_seed(0)
    x, y = torch.randn(30, 6, dtype=torch.float64), torch.randn(30, 1, dtype=torch.float64)
    net = nn.Linear(6, 1, bias=False, dtype=torch.float64)
    data = list(zip(x.split(7), y.split(7), strict=True))
    operator = HessianOperator(Objective(net, nn.MSELoss(), data, errors=None), net.state_dict())
    v = torch.randn(6, dtype=torch.float64)
    close(operator @ v, 2 / 30 * x.T @ (x @ v))
    with torch.device("meta"):  # torch's default device is none of the data's
        operator = HessianOperator(Objective(net, nn.MSELoss(), data, errors=None), net.state_dict())
        close(operator @ v, 2 / 30 * x.T @ (x @ v))


def test_product_is_the_closed_form_of_logistic_regression():
    data = blobs()
    x, _ = (torch.cat(parts) for parts in zip(*data, strict=True))
    net = nn.Linear(4, 3, bias=False, dtype=torch.float64)
    operator = HessianOperator(Objective(net, nn.CrossEntropyLoss(), data), net.state_dict())
    p = net(x).softmax(1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    dense = torch.einsum("nab,ni,nj->aibj", middle, x, x).reshape(12, 12) / len(x)
    v = torch.randn(12, dtype=torch.float64)
    close(operator @ v, dense @ v)


def gradient(net, vector, objective, data):
    weights = {k: w.requires_grad_() for k, w in objective.weights(vector.clone()).items()}
    total = sum(len(y) for _, y in data)
    loss = sum(
        functional.cross_entropy(functional_call(net, weights, (x,)), y) * len(y) / total for x, y in data
    )
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(weights.values()))])


def test_product_agrees_with_central_differences_of_the_gradient():
    net, data = mlp(), blobs()
    objective = Objective(net, nn.CrossEntropyLoss(), data)
    operator = HessianOperator(objective, net.state_dict())
    w, v, h = objective.vector(), torch.randn(objective.numel, dtype=torch.float64), 1e-5
    difference = (gradient(net, w + h * v, objective, data) - gradient(net, w - h * v, objective, data)) / (
        2 * h
    )
    torch.testing.assert_close(operator @ v, difference, rtol=1e-6, atol=1e-8)


def test_product_of_a_transformer_agrees_with_central_differences():
    """Forward derivatives do not know torch's fused attention, and are wrong for its LayerNorm."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Unflatten(1, (2, 8)),
        nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).double()
    data = blobs(features=16)
    objective = Objective(net, nn.CrossEntropyLoss(), data)
    operator = HessianOperator(objective, net.state_dict())
    fast = torch.backends.mha.get_fastpath_enabled()
    w, v, h = objective.vector(), torch.randn(objective.numel, dtype=torch.float64), 1e-6
    slopes = [gradient(net, w + sign * h * v, objective, data) for sign in (1, -1)]
    torch.testing.assert_close(operator @ v, (slopes[0] - slopes[1]) / (2 * h), rtol=1e-4, atol=1e-6)
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_the_cheap_way_is_taken_where_it_is_right():
    for net, dtype in ((mlp(), torch.float64), (mlp().float(), torch.float32)):
        operator = HessianOperator(
            Objective(net, nn.CrossEntropyLoss(), blobs(dtype=dtype)), net.state_dict()
        )
        assert operator._way is hessian._forward_slope


def test_what_torch_deprecates_of_itself_is_not_said():
    """In a process of its own, for it is said once, when forward derivatives are first taken."""
    script = (
        "import warnings\n"
        "import torch\n"
        "from torch import nn\n"
        "from dirprune.landscape import HessianOperator, Objective\n"
        "net, data = nn.Linear(2, 1), [(torch.eye(2), torch.zeros(2, 1))]\n"
        "warnings.simplefilter('error')\n"
        "HessianOperator(Objective(net, nn.MSELoss(), data, errors=None), net.state_dict())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wrong_forward_derivative_is_noticed(monkeypatch):
    wrong = hessian._forward_slope
    monkeypatch.setattr(hessian, "_forward_slope", lambda *given: 1.01 * wrong(*given))
    net, data = mlp(), blobs()
    operator = HessianOperator(Objective(net, nn.CrossEntropyLoss(), data), net.state_dict())
    assert operator._way is hessian._reverse_slope


def test_whole_matrix_is_torchs_dense_hessian():
    net, data = mlp(), blobs()
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    objective = Objective(net, nn.CrossEntropyLoss(), data)

    def loss(vector):
        return functional.cross_entropy(functional_call(net, objective.weights(vector), (x,)), y)

    dense = torch.autograd.functional.hessian(loss, objective.vector())
    close(HessianOperator(objective, net.state_dict()).dense(columns=7), dense)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # what curvlinops' dependencies do with torch
def test_product_is_that_of_curvlinops_for_convolutions_and_batchnorm():
    from curvlinops import HessianLinearOperator

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    ).double()
    net[1].running_var.uniform_(0.5, 2)
    net[1].bias.requires_grad_(False)
    data = [(torch.randn(n, 2, 6, 6).double(), torch.randint(3, (n,))) for n in (7, 4)]
    trained = [p for p in net.parameters() if p.requires_grad]
    theirs = HessianLinearOperator(net.eval(), nn.CrossEntropyLoss(), trained, data)
    mine = HessianOperator(Objective(net, nn.CrossEntropyLoss(), data), net.state_dict())
    vectors = torch.randn(mine.numel, 3, dtype=torch.float64)
    close(mine @ vectors, (theirs @ vectors).detach())
    close(mine @ vectors[:, 1], (theirs @ vectors[:, 1]).detach())
    assert mine.products == 4


def test_eigenpairs_are_those_of_the_dense_matrix():
    net, data = mlp(), blobs()
    objective = Objective(net, nn.CrossEntropyLoss(), data)
    pairs = top_eigenpairs(objective, net.state_dict(), EigenSettings(k=5, tolerance=1e-6))
    dense = HessianOperator(objective, net.state_dict()).dense().numpy()
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(dense)[::-1][:5], rtol=1e-9)
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(5), atol=1e-9)
    for value, vector, residual in zip(pairs.values, pairs.vectors.numpy(), pairs.residuals, strict=True):
        assert np.linalg.norm(dense @ vector - value * vector) == pytest.approx(residual, abs=1e-12)
    assert pairs.converged
    assert pairs.next_value == pytest.approx(np.linalg.eigvalsh(dense)[::-1][5], rel=0.05)


@pytest.mark.parametrize(
    ("curvatures", "k", "expected"),
    [
        ([5.0] * 6 + [3.0] * 10 + [1.0] * 14, 6, [5.0] * 6),  # a Krylov space holds one of six copies
        ([5.0] * 3 + [4.0] + [0.1 * i for i in range(26)], 4, [5.0, 5.0, 5.0, 4.0]),
        ([-9.0, -8.0, -7.0] + [3.0, 2.0, 1.0] + [0.0] * 20, 3, [3.0, 2.0, 1.0]),  # negative ones are larger
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_repeated_and_negative_eigenvalues(curvatures, k, expected, seed):
    objective = quadratic(curvatures)
    state = {"net.weight": torch.zeros(1, len(curvatures), dtype=torch.float64)}
    pairs = top_eigenpairs(objective, state, EigenSettings(k=k, eigen_seed=seed))
    assert pairs.values == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(k), atol=1e-8)
    assert pairs.next_value <= pairs.values[-1] * 1.01


@pytest.mark.parametrize("seed", [1, 7])  # whose rough second look sees 0.977 of the 1.0 that is left
def test_copies_a_little_above_the_last_value_are_not_passed_over(seed):
    curvatures = [10.0] + [1.0] * 12 + [0.97] * 5 + np.linspace(-3, 0.5, 30).tolist()
    state = {"net.weight": torch.zeros(1, len(curvatures), dtype=torch.float64)}
    pairs = top_eigenpairs(quadratic(curvatures), state, EigenSettings(k=10, eigen_seed=seed))
    assert pairs.values == pytest.approx([10.0] + [1.0] * 9, rel=1e-6)
    assert pairs.next_value == pytest.approx(1.0, rel=5e-3)


def test_fewer_positive_eigenvalues_than_asked_for_is_an_error():
    objective = quadratic([3.0, 2.0] + [-1.0] * 28)
    with pytest.raises(NotConvergedError, match="only 2 positive eigenvalues, 4 were asked for"):
        top_eigenpairs(objective, {"net.weight": torch.zeros(1, 30, dtype=torch.float64)}, EigenSettings(k=4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_rounding_makes_of_zero_is_no_eigenvalue(dtype):
    """Least squares with three inputs that depend on one another: the Hessian is 2 X^T X / n of rank 2."""
    torch.manual_seed(0)
    x = (torch.randn(30, 2) @ torch.randn(2, 12)).to(dtype)
    net = nn.Linear(12, 1, bias=False, dtype=dtype)
    data = [(x, torch.zeros(30, 1, dtype=dtype))]
    objective = Objective(net, nn.MSELoss(), data, errors=None)
    with pytest.raises(NotConvergedError, match="only 2 positive eigenvalues, 3 were asked for"):
        top_eigenpairs(objective, net.state_dict(), EigenSettings(k=3, tolerance=0.5))
    values = top_eigenpairs(objective, net.state_dict(), EigenSettings(k=2)).values
    expected = np.linalg.eigvalsh(2 / 30 * (x.T @ x).double().numpy())[::-1][:2]
    assert values == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e6])
def test_small_curvatures_are_found_as_well_as_great_ones(size):
    """In float32, where ARPACK takes what is below 2e-5 for zero."""
    torch.manual_seed(0)
    curvatures = size * torch.rand(80)
    basis = torch.linalg.qr(torch.randn(80, 80)).Q * (80 / 2) ** 0.5

    def loss(outputs, targets):
        return (targets * outputs.square()).mean()

    net = nn.Linear(80, 1, bias=False)
    objective = Objective(net, loss, [(basis, curvatures[:, None])], errors=None)
    pairs = top_eigenpairs(objective, {"weight": torch.zeros(1, 80)}, EigenSettings(k=6))
    assert pairs.values == pytest.approx(curvatures.sort(descending=True).values[:6].tolist(), rel=1e-4)


def test_weights_in_half_precision_are_refused():
    objective = Objective(mlp().bfloat16(), nn.CrossEntropyLoss(), blobs(dtype=torch.bfloat16))
    with pytest.raises(UsageError, match=r"float32 or float64; its weights are torch\.bfloat16"):
        top_eigenpairs(objective, mlp().bfloat16().state_dict(), EigenSettings(k=1))


def test_eigenpairs_that_do_not_converge_are_an_error():
    objective = quadratic([1 + 1e-4 * i for i in range(300)])
    state = {"net.weight": torch.zeros(1, 300, dtype=torch.float64)}
    with pytest.raises(NotConvergedError, match="of 10 eigenpairs converged in 1 restarts"):
        top_eigenpairs(objective, state, EigenSettings(tolerance=1e-9, max_restarts=1))


def test_the_buffers_of_the_checkpoint_count():
    net, data = with_batchnorm(), blobs()
    objective = Objective(net, nn.CrossEntropyLoss(), data)
    other = {**net.state_dict(), "1.running_var": net.state_dict()["1.running_var"] * 4}
    v = torch.randn(objective.numel, dtype=torch.float64)
    one, two = (HessianOperator(objective, state) @ v for state in (net.state_dict(), other))
    assert not torch.allclose(one, two)
    assert objective.digest(net.state_dict()) != objective.digest(other)


def test_equal_calls_give_equal_bits():
    net, data = mlp(), blobs()
    objective = Objective(net, nn.CrossEntropyLoss(), data)
    one, two = (top_eigenpairs(objective, net.state_dict(), EigenSettings(k=3)) for _ in range(2))
    assert torch.equal(one.vectors, two.vectors)
    assert one.values == two.values


def counted(monkeypatch):
    """Count the products that are computed."""
    seen, product = [], HessianOperator._product
    monkeypatch.setattr(HessianOperator, "_product", lambda self, v: seen.append(1) or product(self, v))
    return seen


class KilledError(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 9, 30])
def test_a_stopped_search_goes_on_to_the_same_bits(tmp_path, monkeypatch, stop):
    net, data = mlp(hidden=8), blobs()
    objective = Objective(net, nn.CrossEntropyLoss(), data)
    settings, computed = EigenSettings(k=4), counted(monkeypatch)
    whole = top_eigenpairs(objective, net.state_dict(), settings)
    all_products = len(computed)
    assert all_products > stop

    def kill(stage, done, total):
        if done == stop:
            raise KilledError

    with pytest.raises(KilledError):
        top_eigenpairs(
            objective, net.state_dict(), settings, store=Store(tmp_path, {}, "eigen"), progress=kill
        )
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes() + b"torn")  # killed while it wrote the next one
    computed.clear()
    store = Store(tmp_path, {}, "eigen")
    resumed = top_eigenpairs(objective, net.state_dict(), settings, store=store)
    assert len(computed) == all_products - stop
    assert torch.equal(resumed.vectors, whole.vectors)
    assert (resumed.values, resumed.residuals) == (whole.values, whole.residuals)
    assert resumed.products == whole.products
    store.clear()
    assert not list(tmp_path.iterdir())


def test_products_of_another_iteration_or_damaged_ones_are_computed_anew(tmp_path):
    net, data = mlp(), blobs()
    objective = Objective(net, nn.CrossEntropyLoss(), data)
    store = Store(tmp_path, {}, "eigen")
    top_eigenpairs(objective, net.state_dict(), EigenSettings(k=2, eigen_seed=1), store=store)
    (path,) = tmp_path.iterdir()
    seed = top_eigenpairs(objective, net.state_dict(), EigenSettings(k=2), store=store)
    plain = top_eigenpairs(objective, net.state_dict(), EigenSettings(k=2))
    assert torch.equal(seed.vectors, plain.vectors)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    again = top_eigenpairs(objective, net.state_dict(), EigenSettings(k=2), store=store)
    assert torch.equal(again.vectors, plain.vectors)


def test_data_that_change_are_refused():
    net = mlp()
    with pytest.raises(DataError, match="two passes over the train data differ"):
        HessianOperator(Objective(net, nn.CrossEntropyLoss(), Changing()), net.state_dict())


def test_a_network_that_is_random_in_evaluation_mode_is_refused(capsys):
    class AlwaysDropout(nn.Module):
        def forward(self, x):
            return functional.dropout(x, 0.5, training=True)

    net = nn.Sequential(mlp(), AlwaysDropout())
    with pytest.raises(DataError, match="must be deterministic in evaluation mode"):
        HessianOperator(Objective(net, nn.CrossEntropyLoss(), blobs()), net.state_dict())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("settings", [{"k": 0}, {"tolerance": 0.0}, {"max_restarts": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UsageError, match="`k` and `max_restarts`"):
        EigenSettings(**settings)


def test_k_must_be_less_than_the_number_of_weights():
    state = {"net.weight": torch.zeros(1, 3, dtype=torch.float64)}
    with pytest.raises(UsageError, match="less than the number of weights, 3"):
        top_eigenpairs(quadratic([1.0, 2.0, 3.0]), state, EigenSettings(k=3))


class Square(torch.autograd.Function):
    """x^2 without a forward mode."""

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: ARG004 - torch calls it so
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad

    generate_vmap_rule = True


class SquareOfWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))

    def forward(self, x):
        return x @ Square.apply(self.w)


def test_an_operation_without_a_forward_mode_goes_the_reverse_way():
    """L = mean_i (x_i . w^2): the Hessian is diag(2 mean x)."""
    net, x = SquareOfWeight(), torch.tensor([[1.0, 2.0], [3.0, 6.0]], dtype=torch.float64)
    objective = Objective(net, lambda outputs, _: outputs.mean(), [(x, torch.zeros(2))], errors=None)
    operator = HessianOperator(objective, net.state_dict())
    close(operator @ torch.tensor([1.0, 1.0], dtype=torch.float64), 2 * x.mean(0))


def test_weights_whose_loss_is_not_finite_are_named():
    net, data = mlp(), blobs()
    state = {name: tensor * math.nan for name, tensor in net.state_dict().items()}
    with pytest.raises(DataError, match="the loss at these weights is not finite: nan"):
        HessianOperator(Objective(net, nn.CrossEntropyLoss(), data), state)
