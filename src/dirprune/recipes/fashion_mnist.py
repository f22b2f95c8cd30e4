"""LeNet-5 and a small vision transformer on Fashion-MNIST."""

from dataclasses import replace

from dirprune.train import Experiment, TrainConfig


def lenet5_fashion_mnist() -> Experiment:
    """LeNet-5 (Caffe's) on Fashion-MNIST.

    Command: ``dirprune train lenet5-fashion_mnist --data-dir DATA``; ``--c 0.0055`` gets sparser.

    Hardware and time: one CPU core, about a quarter of an hour for a run of 30 epochs.

    Expect, seed 0: SGD 91.22 %; gRDA 90.26 % at 90.49 % sparsity (c 0.004) and 89.94 % at 94.81 % (c 0.0055).
    Its training loss is still 0.11 and 0.15 then, that of SGD 0.008.
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


def lenet5_fashion_mnist_l0() -> Experiment:
    """LeNet-5 on Fashion-MNIST with the hard threshold and mu 1: SGD's accuracy at 90 % zeros, in one seed.

    Command: ``dirprune train lenet5-fashion_mnist-l0 --data-dir DATA``; ``--c 1.8e-4`` gets sparser.

    Hardware and time: one CPU core, about ten minutes for a run of 60 epochs.

    Expect, seed 0: SGD 91.34 %; gRDA 91.41 % at 90.31 % sparsity, 91.05 % at 93.89 % (c 1.8e-4);
    with the soft threshold (penalty l1, mu 0.6, c 0.0045) 90.88 % at 92.66 %.
    """
    experiment = lenet5_fashion_mnist()
    config = replace(
        experiment.config,
        recipe="lenet5-fashion_mnist-l0",
        penalty="l0",
        mu=1.0,
        c=1.2e-4,
        epochs=60,
        schedule="half-linear",
        precision="bf16",
        channels_last=True,
    )
    return replace(experiment, config=config)


def vit2x64p7_fashion_mnist() -> Experiment:
    """A transformer over patches of 7 x 7 pixels, two blocks of width 64, with AdamW or gRDA's adaptive form.

    Command: ``dirprune train vit2x64p7-fashion_mnist --data-dir DATA``; ``--methods sgd`` is AdamW.

    Hardware and time: one CPU core, about four minutes for a run of 10 epochs.

    Expect, seed 0, on a tenth of the training images that is held back (``--validation 0.1``): AdamW 89.22 %;
    gRDA 89.78 % at 26.16 % sparsity (c 0.7) and 88.62 % at 67.29 % (c 2).
    """
    return Experiment(
        config=TrainConfig(
            recipe="vit2x64p7-fashion_mnist",
            dataset="fashion_mnist",
            model="vit2x64p7",
            lr=1e-3,
            momentum=0.9,
            beta2=0.999,
            weight_decay=0.05,
            c=2.0,
            mu=0.6,
            prune="weights",
            batch_size=128,
            epochs=10,
            schedule="half-linear",
            mean=(0.2860,),
            std=(0.3530,),
        )
    )
