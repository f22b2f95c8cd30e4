"""The programs that `inference_bench` times: each makes of a network a call from inputs to outputs."""

import copy
import importlib
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dirprune.export.onnx_file import onnx_content
from dirprune.export.slimming import slim
from dirprune.export.sparse_runtime import SparseModel

Run = Callable[[Tensor], Tensor]


def _module(model: nn.Module, guard: Callable[[], AbstractContextManager[Any]] = torch.inference_mode) -> Run:
    model.eval()

    def run(x: Tensor) -> Tensor:
        with guard():
            result: Tensor = model(x)
            return result

    return run


def _torch(model: nn.Module, x: Tensor, threads: int) -> Run:  # noqa: ARG001 - all contenders have this form
    return _module(copy.deepcopy(model))


def _compiled(model: nn.Module, x: Tensor, threads: int, **options: Any) -> Run:  # noqa: ARG001
    compiled = torch.compile(copy.deepcopy(model).eval(), dynamic=False, options=options)

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            result: Tensor = compiled(x)
            return result

    return run


def _frozen(model: nn.Module, x: Tensor, threads: int) -> Run:
    return _compiled(model, x, threads, freezing=True)  # weights are constants: folded and packed beforehand


def _channels_last(model: nn.Module, x: Tensor, threads: int) -> Run:  # noqa: ARG001
    if x.ndim != 4:
        raise ValueError("only images have channels")
    last = torch.channels_last
    run = _module(copy.deepcopy(model).to(memory_format=last))
    return lambda x: run(x.contiguous(memory_format=last))


def _bf16(model: nn.Module, x: Tensor, threads: int) -> Run:  # noqa: ARG001
    run = _module(copy.deepcopy(model).to(torch.bfloat16))

    def converting(x: Tensor) -> Tensor:
        return run(x.to(torch.bfloat16)).float()

    return converting


class _CsrLinear(nn.Module):
    """A linear layer whose weight is compressed by rows."""

    def __init__(self, layer: nn.Linear, *, weight_first: bool) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            self.weight = layer.weight.detach().to_sparse_csr()
        self.bias = layer.bias
        self.weight_first = weight_first

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if self.weight_first:
            result: Tensor = torch.sparse.mm(self.weight, rows.t()).t()
            result = result if self.bias is None else result + self.bias
        else:
            result = functional.linear(rows, self.weight, self.bias)
        return result.reshape(*x.shape[:-1], -1)


def _csr(model: nn.Module, *, weight_first: bool) -> Run:
    model = copy.deepcopy(model)
    layers = [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        # attention reads the weight of its own last map, and does not call that layer
        and not isinstance(model.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention)
    ]
    if not layers or not layers[0][0]:
        raise ValueError("no linear layer inside the network")
    for name, layer in layers:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, _CsrLinear(layer, weight_first=weight_first))
    return _module(model, torch.no_grad)  # sparse tensors know no inference mode


def _csr_of_inputs(model: nn.Module, x: Tensor, threads: int) -> Run:  # noqa: ARG001
    return _csr(model, weight_first=False)


def _csr_of_weights(model: nn.Module, x: Tensor, threads: int) -> Run:  # noqa: ARG001
    return _csr(model, weight_first=True)


def _onnxruntime(model: nn.Module, x: Tensor, threads: int) -> Run:
    runtime: Any = importlib.import_module("onnxruntime")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = threads
    content, _ = onnx_content(model, tuple(x.shape[1:]), sparse=False)
    session = runtime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0])


def _openvino(model: nn.Module, x: Tensor, threads: int, **settings: Any) -> Run:
    openvino: Any = importlib.import_module("openvino")
    core = openvino.Core()
    network = core.read_model(onnx_content(model, tuple(x.shape[1:]), sparse=False)[0])
    network.reshape(list(x.shape))
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }
    request = core.compile_model(network, "CPU", {**hints, **settings}).create_infer_request()

    def run(x: Tensor) -> Tensor:
        request.infer({0: x.numpy()}, share_inputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    return run


def _openvino_sparse(model: nn.Module, x: Tensor, threads: int) -> Run:
    return _openvino(model, x, threads, CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE=0.5)


def _slim(model: nn.Module, x: Tensor, threads: int) -> Run:  # noqa: ARG001
    return _module(slim(model, tuple(x.shape[1:])).model)


def _slim_onnxruntime(model: nn.Module, x: Tensor, threads: int) -> Run:
    return _onnxruntime(slim(model, tuple(x.shape[1:])).model, x, threads)


def _sparse(model: nn.Module, x: Tensor, threads: int) -> Run:
    return SparseModel(model, tuple(x.shape[1:]), threads=threads)


CONTENDERS: dict[str, Callable[[nn.Module, Tensor, int], Run]] = {
    "torch": _torch,
    "torch.compile": _compiled,
    "torch.compile, frozen": _frozen,
    "torch channels_last": _channels_last,
    "torch bf16": _bf16,
    "onnxruntime": _onnxruntime,
    "OpenVINO": _openvino,
    "OpenVINO, sparse setting": _openvino_sparse,
    "torch CSR linear, input first": _csr_of_inputs,
    "torch CSR linear, weight first": _csr_of_weights,
    "slim, torch": _slim,
    "slim, onnxruntime": _slim_onnxruntime,
    "sparse (ours)": _sparse,
}

DENSE = (
    *("torch", "torch.compile", "torch.compile, frozen", "torch channels_last", "torch bf16"),
    *("onnxruntime", "OpenVINO"),
)
