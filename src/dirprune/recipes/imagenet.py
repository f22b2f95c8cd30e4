"""The paper's ImageNet experiment (Chao et al. 2020, section 4)."""

from dirprune.train import Experiment, TrainConfig


def resnet50_imagenet() -> Experiment:
    """ResNet50 on ImageNet as published: batch 256, 150 epochs, the rate drops after epoch 140.

    Command: ``dirprune train resnet50-imagenet --data-dir DATA``, where DATA holds ``train/CLASS/*.JPEG`` and
    ``val/CLASS/*.JPEG``, or the hub's parquet files; on eight GPUs ``torchrun --nproc-per-node 8 -m dirprune
    train resnet50-imagenet --data-dir DATA``. The paper's other settings:
    ``--mu 0.501``, ``0.51``, ``0.6``, ``0.65``, ``0.7``, and ``--schedule constant``. Where memory is short,
    ``--parallel fsdp2`` divides the model and ``--accumulation 4`` the batch.

    Hardware and time: made for several GPUs; ``--dry-run`` measures a few steps and estimates the time. The
    first start times bf16 and channels_last and takes them where they pay; ``--precision no`` is float32.

    Expect what Chao et al. 2020 publish (one run each, best epoch, top-1): with the drop, gRDA 73.13 % at
    86.09 % sparsity (mu 0.501), 73.24 % at 91.59 % (0.55), 72.16 % at 94.98 % (0.6), 65.51 % at 98.17 %
    (0.7); at a constant rate SGD 68.71 %, gRDA 69.76 % at 91.54 % (0.55). Not repeated here.
    """
    return Experiment(
        config=TrainConfig(
            recipe="resnet50-imagenet",
            dataset="imagenet",
            model="resnet50",
            lr=0.1,
            c=5e-3,
            mu=0.55,
            batch_size=256,
            epochs=150,
            schedule="drop",
            schedule_epochs=150,
            flip=True,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        compute="auto",
    )
