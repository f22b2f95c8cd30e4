"""The sharp directions: greatest eigenvalues of the Hessian of the training loss, and their eigenvectors."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from dirprune.errors import DataError, DirpruneError, UsageError, from_extra
from dirprune.landscape.files import Json, Progress, Result, Store, no_progress
from dirprune.landscape.objective import Objective, State
from dirprune.landscape.replay import Replay

Array = NDArray[Any]
_Loss = Callable[[State], Tensor]
_Way = Callable[[_Loss, State, State], Tensor]

_CHECK_TOLERANCE = 0.05  # the run that looks for what was missed need not be precise ...
_CHECK_VECTORS = 8  # ... and is done sooner in a small Krylov space
_REPEATS = 1e-4  # relative; what the order of sums on a GPU may change
_AGREES = 1e-3  # relative; rounding in float32 is less, a wrong derivative more
_PRECISIONS = (torch.float32, torch.float64)  # that the Lanczos iteration knows
_EQUAL = 1e-2  # relative; closer values are one cluster, in which the order says nothing
_NEAR = 2 * _CHECK_TOLERANCE  # relative; how far above what the rough run sees an eigenvalue may lie
_FINE_TOLERANCE = _EQUAL / 4  # of the run that then looks closer


class NotConvergedError(DirpruneError):
    """Fewer eigenpairs than were asked for came within the tolerance."""


@dataclass(frozen=True, kw_only=True)
class EigenSettings:
    """How eigenpairs are computed.

    Raises:
        UsageError: A value is out of range.
    """

    k: int = 10
    """Number of greatest eigenvalues."""
    tolerance: float = 1e-3
    """Greatest relative residual |Hu - lambda u| / lambda of an eigenpair."""
    max_restarts: int = 100
    """Restarts of the Lanczos iteration before it is given up."""
    eigen_seed: int = 0
    """Seed of the start vectors."""

    def __post_init__(self) -> None:
        if self.k < 1 or self.max_restarts < 1 or not 0 < self.tolerance < 1:
            raise UsageError(
                "`k` and `max_restarts` must be 1 or more and `tolerance` in (0, 1); "
                f"they are {self.k}, {self.max_restarts} and {self.tolerance}"
            )


@dataclass(frozen=True, eq=False)
class Eigenpairs(Result):
    """The greatest eigenvalues of a Hessian, with the evidence that they are what they claim to be.

    Attributes:
        values: Eigenvalues, positive, descending.
        vectors: Eigenvectors, one per row [k, d], orthonormal.
        residuals: |H u - lambda u| of each pair.
        next_value: What a second search found beside them: the next eigenvalue, estimated from below. That
            it is not above the last of `values` is the evidence that none was passed over.
        products: Hessian-vector products that were computed.
        loss: The training loss that the Hessian is of, with the BatchNorm statistics of the checkpoint.
    """

    kind: ClassVar[str] = "eigenpairs"
    values: tuple[float, ...]
    vectors: Tensor
    residuals: tuple[float, ...]
    next_value: float
    products: int
    loss: float

    @property
    def converged(self) -> bool:
        """Whether every pair is within the tolerance."""
        tolerance = self.request["tolerance"]
        return all(r <= tolerance * v for r, v in zip(self.residuals, self.values, strict=True))


class HessianOperator:
    r"""Products with the Hessian of the mean training loss at given weights, in evaluation mode.

    .. math:: H v = \nabla_w \left( \nabla L(w)^{\mathsf T} v \right)

    The gradient, in reverse mode, of the derivative along v, in forward mode: the cheapest way, and for some
    layers a wrong one in torch (2.14: LayerNorm). So it is first held against reverse mode twice, on the
    first batch, and that is taken where they differ. The data are read twice and must be the same, and so
    must the loss.

    Args:
        objective: The loss.
        state: Weights and BatchNorm statistics: a state dict of the network.

    Raises:
        DataError: The data or the network differ between two passes.

    Example:
        >>> from torch import nn
        >>> data = [(torch.eye(2), torch.zeros(2, 1))]
        >>> objective = Objective(nn.Linear(2, 1, bias=False), nn.MSELoss(), data, errors=None)
        >>> HessianOperator(objective, {"weight": torch.zeros(1, 2)}) @ torch.tensor([1.0, 2.0])
        tensor([1., 2.])
    """

    def __init__(self, objective: Objective, state: State) -> None:
        self._objective = objective
        self._samples = int(objective.data["train"]["samples"])  # refuses data that change
        self._module = objective.module_at(state)
        self._weights = {name: p.detach() for name, p in self._module.named_parameters() if p.requires_grad}
        self.dtype, self.device = objective.dtype, objective.device
        self.numel = objective.numel
        self.products = 0
        with torch.random.fork_rng(devices=objective.cuda):  # a network may draw, which is then refused
            losses = [self._mean_loss() for _ in range(2)]
        if not all(map(math.isfinite, losses)):
            raise DataError(f"the loss at these weights is not finite: {losses[0]:.6g}")
        if not math.isclose(*losses, rel_tol=_REPEATS):
            raise DataError(
                f"two passes over the same data disagree (losses {losses[0]:.6g} and {losses[1]:.6g}): "
                "the network must be deterministic in evaluation mode"
            )
        self.loss = losses[0]
        self._way = self._agreed_way()

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Return H v for a vector [d] or the columns of a matrix [d, n]."""
        self.products += 1 if vectors.ndim == 1 else vectors.shape[1]
        if vectors.ndim == 1:
            return self._product(vectors)
        return torch.vmap(self._product, in_dims=1, out_dims=1)(vectors)

    def _product(self, vector: Tensor) -> Tensor:
        direction = self._objective.weights(vector)
        total = torch.zeros((), device="cpu")
        for inputs, targets in self._objective.batches("train"):
            flat = self._of_batch(self._way, direction, inputs, targets)
            total = total + flat * (len(targets) / self._samples)
        return total

    def _of_batch(self, way: _Way, direction: State, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return H v of a batch: the gradient of the slope along v."""
        loss = partial(self._loss, inputs=inputs, targets=targets)
        with _plain_attention():
            parts = grad(lambda weights: way(loss, weights, direction))(self._weights)
        return torch.cat([parts[name].reshape(-1) for name in self._objective.shapes])

    def _agreed_way(self) -> _Way:
        """Return the forward way where it gives what the reverse way gives, for a random direction."""
        inputs, targets = next(iter(self._objective.batches("train")))
        generator = torch.Generator("cpu").manual_seed(0)
        vector = torch.randn(self.numel, generator=generator, dtype=self.dtype, device="cpu").to(self.device)
        direction = self._objective.weights(vector)
        reverse = self._of_batch(_reverse_slope, direction, inputs, targets)
        try:
            with warnings.catch_warnings():  # torch loads its forward derivatives with what it has deprecated
                warnings.filterwarnings("ignore", "`torch.jit.script` is", FutureWarning)
                forward = self._of_batch(_forward_slope, direction, inputs, targets)
        except NotImplementedError:  # an operation of the network has no forward mode
            return _reverse_slope
        agree = torch.linalg.vector_norm(forward - reverse) <= _AGREES * torch.linalg.vector_norm(reverse)
        return _forward_slope if agree else _reverse_slope

    def _loss(self, weights: State, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._objective.loss(functional_call(self._module, dict(weights), (inputs,)), targets)

    @torch.no_grad()
    def _mean_loss(self) -> float:
        batches = self._objective.batches("train")
        return sum(self._loss(self._weights, x, y).item() * (len(y) / self._samples) for x, y in batches)

    def dense(self, columns: int = 64) -> Tensor:
        """Return the whole Hessian [d, d], symmetrised; for networks of a few thousand weights."""
        eye = torch.eye(self.numel, dtype=self.dtype, device=self.device)
        blocks = (eye[:, start : start + columns] for start in range(0, self.numel, columns))
        whole = torch.cat([self @ block for block in blocks], dim=1)
        return (whole + whole.T) / 2


def eigen_request(objective: Objective, state: State, settings: EigenSettings) -> Json:
    """Return all that eigenpairs depend on."""
    return {**asdict(settings), **objective.identity(network=state)}


def top_eigenpairs(
    objective: Objective,
    state: State,
    settings: EigenSettings | None = None,
    *,
    store: Store | None = None,
    progress: Progress = no_progress,
) -> Eigenpairs:
    r"""The k greatest eigenvalues of the Hessian of the training loss, and their eigenvectors.

    .. math:: H u_i = \lambda_i u_i, \qquad \lambda_1 \ge \ldots \ge \lambda_k > 0

    Greatest by value, so that negative ones, however large, are not among them. Restarted Lanczos (ARPACK)
    can pass over copies of a repeated eigenvalue; therefore a second search looks at what is left once the
    found directions are taken out, and whatever it finds above them joins them.

    Args:
        objective: The loss; its whole training data are used.
        state: Weights and BatchNorm statistics: a state dict.
        settings: How many, and how precise.
        store: Keeps the Hessian products, in a file beside its own, so that a stopped search goes on.
        progress: Told the number of Hessian products.

    Returns:
        The pairs and their evidence.

    Raises:
        NotConvergedError: Not all came within the tolerance, or the Hessian has fewer positive eigenvalues.
        UsageError: k is out of range, or the weights are neither float32 nor float64.
        MissingPackageError: scipy is not installed.
        DataError: The data or the network differ between two passes.

    Example:
        >>> from torch import nn
        >>> data = [(torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.zeros(3, 1))]
        >>> objective = Objective(nn.Linear(3, 1, bias=False), nn.MSELoss(), data, errors=None)
        >>> pairs = top_eigenpairs(objective, {"weight": torch.zeros(1, 3)}, EigenSettings(k=2))
        >>> [round(value, 3) for value in pairs.values], pairs.converged
        ([6.0, 2.667], True)

    References:
        Chao et al. 2020, section 4.3: top-10 subspace of the Hessian.
    """
    settings = settings or EigenSettings()
    k, tolerance = settings.k, settings.tolerance
    if k >= objective.numel:
        raise UsageError(f"`k` must be less than the number of weights, {objective.numel}; it is {k}")
    if objective.dtype not in _PRECISIONS:
        raise UsageError(
            f"eigenpairs need a network in float32 or float64; its weights are {objective.dtype}: "
            "convert it (model.float()), and its inputs"
        )
    request = eigen_request(objective, state, settings)
    operator = HessianOperator(objective, state)
    path = store.beside(f"products-{request['network']}") if store else None
    search = _Search(operator, settings, path, progress)
    search.extend(k, tolerance / 2)
    while (next_value := search.next_value(k)) > search.value(k) + _EQUAL * abs(search.value(k)):
        search.extend(1, tolerance / 2)  # a copy that the first search has passed over
    values, vectors, residuals = search.found(k)
    rounding = torch.finfo(objective.dtype).eps * math.sqrt(objective.numel)  # what a zero may come out as
    noise = rounding * max(values[0], 0.0)
    if values[-1] <= noise:
        positive = int((values > noise).sum())
        raise NotConvergedError(
            f"the Hessian has only {positive} positive eigenvalues, {k} were asked for: ask for fewer (`k`)"
        )
    late = int((residuals > tolerance * values).sum())
    if late:
        raise NotConvergedError(
            f"{late} of {k} eigenpairs have a relative residual above {tolerance:g} "
            f"(the worst: {(residuals / values).max():.2g}): allow more restarts, or a greater tolerance"
        )
    return Eigenpairs(
        request,
        tuple(values.tolist()),
        vectors,
        tuple(residuals.tolist()),
        next_value,
        search.products,
        operator.loss,
    )


class _Search:
    """Lanczos on the Hessian, with the directions that are already found taken out."""

    def __init__(
        self, operator: HessianOperator, settings: EigenSettings, path: Path | None, progress: Progress
    ) -> None:
        self._operator = operator
        self._max_restarts = settings.max_restarts
        self._random = np.random.default_rng(settings.eigen_seed)
        self._replay = Replay(path, self._product)
        self._progress = progress
        self._dtype = np.dtype(str(operator.dtype).removeprefix("torch."))
        self._vectors: Array = np.empty((operator.numel, 0), self._dtype)
        self._values: Array = np.empty(0)
        self._residuals: Array = np.empty(0)

    @property
    def products(self) -> int:
        """Hessian products so far, those of an earlier start included."""
        return self._operator.products + self._replay.restored

    def extend(self, k: int, tolerance: float) -> None:
        """Find k more pairs; all are kept in descending order."""
        vectors = self._lanczos(k, tolerance, max(2 * k + 1, 20), shift=0.0)
        measured = [self._rayleigh(column) for column in vectors.T]
        values = np.append(self._values, [value for value, _ in measured])
        order = np.argsort(-values)
        self._values = values[order]
        self._residuals = np.append(self._residuals, [residual for _, residual in measured])[order]
        self._vectors = np.hstack([self._vectors, vectors])[:, order]

    def found(self, k: int) -> tuple[Array, Tensor, Array]:
        """Return the k greatest: values, vectors [k, d], residuals."""
        vectors = torch.from_numpy(np.ascontiguousarray(self._vectors[:, :k].T))
        return self._values[:k], vectors, self._residuals[:k]

    def value(self, k: int) -> float:
        """Return the k-th greatest value."""
        return float(self._values[k - 1])

    def next_value(self, k: int) -> float:
        """Return about the greatest eigenvalue that is left, never more than it."""
        if self._vectors.shape[1] == self._operator.numel - 1:
            return -math.inf
        rough, last = self._greatest_left(k, _CHECK_TOLERANCE), self.value(k)
        if abs(rough - last) > _NEAR * abs(last):
            return rough
        return max(rough, self._greatest_left(k, _FINE_TOLERANCE))

    def _greatest_left(self, k: int, tolerance: float) -> float:
        # shifted, "within 5 %" means 5 % of what is in hand, not of what is left, which may be nothing
        vectors = self._lanczos(1, tolerance, _CHECK_VECTORS, shift=abs(self.value(k)))
        return self._rayleigh(vectors[:, 0])[0]

    def _lanczos(self, k: int, tolerance: float, krylov: int, shift: float) -> Array:
        """Return eigenvectors [d, k] of the greatest eigenvalues of H + shift outside of what is found."""
        with from_extra("landscape", "finding eigenvalues"):
            from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh

        d, known = self._operator.numel, self._vectors
        floor = 2 * float(np.abs(self._values).max(initial=0.0))
        # ARPACK takes what is below eps^(2/3) for zero: it is shown values of about one, by a power of two,
        # which rounds nothing.
        scale = 0.0

        def product(vector: Array) -> Array:
            nonlocal scale
            vector = vector.reshape(-1)
            inside = known @ (known.T @ vector)
            outside = self._multiply(vector - inside)
            outside -= known @ (known.T @ outside)
            # 0 for what is found could be above the rest.
            moved: Array = outside + shift * vector - floor * inside
            if not scale:
                stretch = float(np.linalg.norm(moved) / np.linalg.norm(vector))
                scale = 2.0 ** -round(math.log2(stretch)) if stretch and math.isfinite(stretch) else 1.0
            return moved * scale

        try:
            _, vectors = eigsh(
                LinearOperator((d, d), matvec=product, dtype=self._dtype),
                k,
                which="LA",
                v0=self._random.standard_normal(d).astype(self._dtype),
                ncv=min(d, krylov),
                tol=tolerance,
                maxiter=self._max_restarts,
            )
        except ArpackNoConvergence as error:
            raise NotConvergedError(
                f"only {len(error.eigenvalues)} of {k} eigenpairs converged in {self._max_restarts} restarts "
                f"({self.products} Hessian products): allow more restarts, or a greater tolerance"
            ) from None
        except ArpackError as error:  # where the Hessian vanishes
            raise NotConvergedError(f"no eigenpairs: {error}") from None
        return np.asarray(vectors)

    def _rayleigh(self, column: Array) -> tuple[float, float]:
        """Return the quotient u.Hu of a unit vector, and the residual |Hu - (u.Hu) u|."""
        image, vector = self._multiply(column).astype(np.float64), column.astype(np.float64)
        value = float(vector @ image / (vector @ vector))
        return value, float(np.linalg.norm(image - value * vector))

    def _multiply(self, vector: Array) -> Array:
        product = self._replay(np.ascontiguousarray(vector, dtype=self._dtype))
        self._progress("Hessian products", self.products, None)
        return product

    def _product(self, vector: Array) -> Array:
        product = self._operator @ torch.from_numpy(vector).to(self._operator.device)
        return np.asarray(product.cpu().numpy())


def _forward_slope(loss: _Loss, weights: State, direction: State) -> Tensor:
    """Derivative of the loss along a direction, by one pass forward."""
    along: Tensor = jvp(loss, (weights,), (direction,))[1]
    return along


def _reverse_slope(loss: _Loss, weights: State, direction: State) -> Tensor:
    """The same from the gradient."""
    slopes = grad(loss)(weights)
    return torch.stack([(slopes[name] * direction[name]).sum() for name in slopes]).sum()


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep attention from its fused ways, which forward derivatives do not know."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
