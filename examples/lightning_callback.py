"""PyTorch Lightning: GRDA in configure_optimizers, and the callback for sparsity and the small file.

python examples/lightning_callback.py
python examples/lightning_callback.py --epochs 120 --resume runs/examples/lightning_callback/last.ckpt
"""

import argparse
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

import dirprune
from digits import accuracy, batches
from dirprune.integrations.lightning import SparsityCallback


class Digits(lightning.LightningModule):
    """A small network and how it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self.model(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> dirprune.GRDA:
        """Return the optimiser; Lightning keeps its state in every checkpoint."""
        return dirprune.GRDA(self.parameters(), lr=0.1, c=0.01, mu=0.6)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=100)
parser.add_argument("--resume", type=Path)
parser.add_argument("--out", type=Path, default=Path("runs/examples/lightning_callback"))
options = parser.parse_args()

lightning.seed_everything(0)
module = Digits()
trainer = lightning.Trainer(
    max_epochs=options.epochs,
    default_root_dir=options.out,
    accelerator="cpu",
    logger=False,
    callbacks=[
        SparsityCallback(options.out / "model.sparse.safetensors", module="model"),
        ModelCheckpoint(options.out, save_last=True),
    ],
)
trainer.fit(module, batches(), ckpt_path=options.resume)

small = Digits().model
dirprune.load_sparse(options.out / "model.sparse.safetensors", small)
print(f"accuracy {accuracy(small):.4f}  sparsity {trainer.callback_metrics['sparsity']:.4f}")
