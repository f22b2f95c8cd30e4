"""LeNets on Fashion-MNIST."""

from dirprune.train import Experiment, TrainConfig


def lenet5_fashion_mnist() -> Experiment:
    """LeNet-5 (Caffe's) on Fashion-MNIST.

    Command: ``dirprune train lenet5-fashion_mnist --data-dir DATA``; with ``--c 0.004`` it gets sparser.

    Hardware and time: two CPU cores; see benchmarks/results/lenet5-fashion_mnist.json.

    Expect: about 90 % sparsity with the default c = 0.0025 and about 95 % with c = 0.004.
    """
    return Experiment(
        config=TrainConfig(
            recipe="lenet5-fashion_mnist",
            dataset="fashion_mnist",
            model="lenet5",
            lr=0.1,
            c=0.004,
            mu=0.6,
            batch_size=128,
            epochs=30,
            mean=(0.2860,),
            std=(0.3530,),
        )
    )
