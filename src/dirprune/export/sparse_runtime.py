"""Run a sparse network on the CPU without reading its zeros."""

import os
import threading

import torch
from torch import Tensor, nn

from dirprune.core.modes import evaluating
from dirprune.core.threads import check_threads
from dirprune.errors import ExportError, UsageError
from dirprune.export.fusion import fuse
from dirprune.export.graph import Shape
from dirprune.export.lowering import lower
from dirprune.export.planning import Plan
from dirprune.export.sparse_file import load_sparse
from dirprune.export.tracing import read_graph

_IMAGES = 8  # at a time: more would leave the cache between layers
TOLERANCE = 1e-4


class SparseModel:
    """A network of convolutions, linear layers, BatchNorm, clamps, pools, sums and joins, run by non-zeros.

    Weights are packed as one list of (position, value) for each output channel, and every value is applied to
    whole vectors of pixels; BatchNorm is folded, ReLU and residual sums happen where a result is stored. What
    is computed is what the module computes in evaluation mode, up to the order of sums; the one other
    difference is that a weight of zero meets no value, so that 0 * inf is 0 here and NaN in the module.

    Building compiles the C code once per machine and compares outputs with the module's.

    Args:
        model: The module; it is not changed and not kept.
        input_shape: Of one sample, such as (3, 32, 32).
        threads: Default: as many as torch uses.
        example: float32 [n, *input_shape] to compare outputs on; default: two of normal noise.

    Raises:
        ExportError: The network does something else, or the outputs differ by more than 1e-4 of the
            greatest, or of 1.
        CompilerError: C code cannot be compiled here.
        UsageError: The number of threads is below 1 or more than machines have, or the example or its shape
            is none.

    Example:
        >>> from dirprune.models import create_model
        >>> lenet = create_model("lenet5", num_classes=10, in_channels=1, image_size=28).eval()
        >>> images = torch.randn(3, 1, 28, 28)
        >>> torch.allclose(SparseModel(lenet, (1, 28, 28))(images), lenet(images), atol=1e-4)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        input_shape: Shape,
        *,
        threads: int | None = None,
        example: Tensor | None = None,
    ) -> None:
        example = samples(input_shape, 2, example)
        graph = read_graph(model, tuple(input_shape))
        steps = fuse(graph)
        self.input_shape = graph.input_shape
        self.output_shape = graph.shapes()[graph.output]
        self.threads = torch.get_num_threads() if threads is None else threads
        self.multiplications = graph.multiplications(nonzero=True)
        self._program = lower(steps, graph.input, graph.input_shape, graph.output)
        self._plans: dict[int, Plan] = {}  # by number of images
        self._lock = threading.Lock()
        self.difference = self._compare(model, example)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        model: nn.Module,
        input_shape: Shape,
        *,
        threads: int | None = None,
        example: Tensor | None = None,
    ) -> "SparseModel":
        """Build from a sparse file.

        Args:
            path: A file of `save_sparse`.
            model: A module of the file's architecture; the file is loaded into it.
            input_shape: Of one sample, such as (3, 32, 32).
            threads: Default: as many as torch uses.
            example: float32 [n, *input_shape] to compare outputs on; default: two of normal noise.

        Returns:
            The network, ready to run.

        Raises:
            MissingFileError: There is no such file.
            SparseFileError: It is damaged, or does not fit the module.
            MissingPackageError: It is compressed, and zstandard is not installed.
            OSError: It cannot be read.
            ExportError, CompilerError, UsageError: As for the class.

        Example:
            >>> import tempfile
            >>> from dirprune.export import save_sparse
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     info = save_sparse(nn.Linear(3, 2), f"{folder}/small.safetensors")
            ...     runtime = SparseModel.from_file(info.path, nn.Linear(3, 2), (3,))
            >>> runtime(torch.zeros(1, 3)).shape
            torch.Size([1, 2])
        """
        load_sparse(path, model)
        return cls(model, input_shape, threads=threads, example=example)

    def __call__(self, x: Tensor) -> Tensor:
        """Run the network.

        Args:
            x: float32 [n, *input_shape] on the CPU.

        Returns:
            float32 [n, *output_shape].

        Raises:
            UsageError: Another shape, dtype or device.
        """
        _check_samples(x, self.input_shape)
        check_threads(self.threads)
        result = torch.empty(len(x), *self.output_shape)
        with self._lock:  # buffers are shared between calls
            for part, target in zip(
                torch.split(x.detach().contiguous(), _IMAGES), torch.split(result, _IMAGES), strict=True
            ):
                if len(part) not in self._plans:
                    self._plans[len(part)] = Plan(self._program, len(part))
                self._plans[len(part)].run(part, target, self.threads)
        return result

    def _compare(self, model: nn.Module, example: Tensor) -> float:
        """The greatest difference from the module's outputs, which must be small."""
        expected = dense_outputs(model, example)
        return small_difference("the sparse runtime", self(example), expected, TOLERANCE)


def samples(shape: Shape, count: int, example: Tensor | None = None) -> Tensor:
    """What outputs are compared on: an example, if it fits the shape, or so many samples of noise."""
    try:
        is_shape = min(torch.Size(shape), default=1) >= 1
    except TypeError:
        is_shape = False
    if not is_shape:
        raise UsageError(f"input_shape must be that of one sample, such as (3, 32, 32), got {shape!r}")
    if example is None:
        return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
    example = example.detach().cpu()
    _check_samples(example, tuple(shape), "example: ")
    return example


def _check_samples(x: Tensor, shape: Shape, what: str = "") -> None:
    """Refuse what is no batch of samples."""
    if tuple(x.shape[1:]) != shape or x.dtype != torch.float32 or x.device.type != "cpu" or not len(x):
        raise UsageError(
            f"{what}expected float32 [n, {', '.join(map(str, shape))}] on the CPU, n >= 1; "
            f"got {x.dtype} {list(x.shape)} on {x.device}"
        )


def small_difference(program: str, outputs: Tensor, expected: Tensor, tolerance: float) -> float:
    """The greatest difference from a module's outputs, or a refusal if it is more than rounding."""
    if not expected.isfinite().all():
        raise ExportError("the network's outputs are not finite: are its weights?")
    difference, scale = float((outputs - expected).abs().max()), max(1.0, float(expected.abs().max()))
    if not difference <= tolerance * scale:
        raise ExportError(
            f"{program}'s outputs differ from the module's by {difference:.3g} where {tolerance * scale:.3g} "
            "may be: is the module deterministic?"
        )
    return difference


def dense_outputs(model: nn.Module, x: Tensor) -> Tensor:
    """What a module computes in evaluation mode, float32 on the CPU; the module is left as it was."""
    device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
    with evaluating(model), torch.inference_mode():
        outputs: object = model(x.to(device))
    if not isinstance(outputs, Tensor):
        raise ExportError(f"expected one tensor out of {type(model).__name__}, got {type(outputs).__name__}")
    return outputs.cpu().float()
