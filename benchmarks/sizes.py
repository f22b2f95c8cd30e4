"""Sizes of networks as files: dense, gzip, sparse with and without two-byte values and Zstandard, ONNX.

Example: python benchmarks/sizes.py vgg16 wrn16x4 resnet50 --sparsity 0.9 0.95
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from dirprune.export.onnx_file import export_onnx
from dirprune.export.sizes import file_sizes
from networks import network
from record import record


def main() -> None:
    parser = argparse.ArgumentParser(description="Sizes of networks as files.")
    parser.add_argument("networks", nargs="+", help="folders of runs, or names")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.9, 0.95])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/sizes.json"))
    options = parser.parse_args()
    results = []
    for name in options.networks:
        for sparsity in [0.0] if Path(name).is_dir() else options.sparsity:
            model, shape, weights = network(name, sparsity)
            sizes = file_sizes(model)
            with TemporaryDirectory() as folder:
                for kind, sparse in (("ONNX", False), ("ONNX, sparse", True)):
                    sizes[kind] = export_onnx(model, Path(folder) / "file", shape, sparse=sparse).bytes
            print(f"{name}, {weights}")
            for kind, size in sizes.items():
                print(f"  {kind:20} {size:>13,} bytes  {100 * size / sizes['dense']:6.2f} % of dense")
            results.append({"network": name, "weights": weights, "bytes": sizes})
    record(options.output, {"results": results})


if __name__ == "__main__":
    main()
