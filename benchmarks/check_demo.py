"""Hold the demonstration to what README.md says of it; exit code 1 where it falls short.

Example: python benchmarks/check_demo.py runs/digits
"""

import sys
from pathlib import Path

from dirprune.report import summarise

SEEDS = 3
LEAST_SPARSITY = 0.9
MOST_LOSS_OF_ACCURACY = 0.005
MOST_SECONDS = 300  # two minutes where nothing else runs; a shared machine may be slower


def main(folder: Path) -> int:
    variants = {variant.method: variant for variant in summarise(folder)}
    sgd, grda = variants["sgd"], variants["grda"]
    assert grda.difference is not None
    assert grda.sparsity is not None
    seconds = sum(spread.mean * len(spread.values) for v in (sgd, grda) if (spread := v.seconds))
    checks = [
        (f"{len(grda.finished)} pairs of seeds", len(grda.finished) == len(sgd.finished) == SEEDS),
        (f"sparsity {grda.sparsity.mean:.4f}", grda.sparsity.mean >= LEAST_SPARSITY),
        (f"difference to SGD {grda.difference.mean:+.4f}", grda.difference.mean >= -MOST_LOSS_OF_ACCURACY),
        (f"{seconds:.0f} seconds of training", seconds <= MOST_SECONDS),
    ]
    for text, holds in checks:
        print(f"{'ok  ' if holds else 'MISS'} {text}")
    return int(not all(holds for _, holds in checks))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
