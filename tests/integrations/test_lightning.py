"""The Lightning callback: what it logs and writes, under both packages; a resume is exact."""

import csv
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dirprune import GRDA, load_sparse
from dirprune.integrations.lightning import SparsityCallback
from tests.optim.common import assert_same


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def package(request):
    return importlib.import_module(request.param)


def make_module(package, *, fail_in_epoch=None):
    class Module(package.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
            self.rest = nn.Linear(3, 3)
            self.seen = []  # sparsity of net after each epoch, counted here

        def training_step(self, batch, _):
            if self.current_epoch == fail_in_epoch:
                raise RuntimeError("the power is gone")
            x, y = batch
            return nn.functional.mse_loss(self.rest(self.net(x)), y)

        def on_train_epoch_end(self):
            weights = torch.cat([p.detach().flatten() for p in self.net.parameters()]).double().numpy()
            self.seen.append(float((weights == 0).mean()))

        def configure_optimizers(self):
            return GRDA(self.parameters(), lr=0.1, c=0.2, mu=0.6, momentum=0.5)

    return Module()


def loader():
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(24, n, generator=generator) for n in (6, 3))
    return DataLoader(TensorDataset(x, y), batch_size=8)


def trainer(package, folder, *callbacks, epochs=3, logger=False):
    return package.Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )


def test_logs_every_epoch_and_ends_with_table_and_file(package, tmp_path, capsys):
    module = make_module(package)
    loggers = importlib.import_module(f"{package.__name__}.loggers")
    logger = loggers.CSVLogger(tmp_path)
    callback = SparsityCallback(module="net", per_layer=True)
    trainer(package, tmp_path, callback, logger=logger).fit(module, loader())

    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["sparsity"]]
    assert module.seen[-1] > module.seen[0] > 0
    assert [float(row["sparsity"]) for row in rows] == pytest.approx(module.seen, abs=1e-6)
    assert float(rows[-1]["sparsity/2.weight"]) == pytest.approx(
        float((module.net[2].weight == 0).float().mean()), abs=1e-6
    )

    state = load_sparse(Path(logger.log_dir) / "model.sparse.safetensors")
    assert state.keys() == module.net.state_dict().keys()
    for name, tensor in module.net.state_dict().items():
        assert torch.equal(state[name], tensor)
    table = capsys.readouterr().out
    assert f"{100 * module.seen[-1]:.2f} %" in table.splitlines()[-1]


def test_layers_are_logged_on_demand_only(package, tmp_path):
    module = make_module(package)
    ran = trainer(package, tmp_path, SparsityCallback(tmp_path / "new" / "small"), epochs=1)
    ran.fit(module, loader())
    assert set(ran.callback_metrics) == {"sparsity"}
    assert load_sparse(tmp_path / "new" / "small").keys() == module.state_dict().keys()


@pytest.mark.parametrize("wanted", [True, False])
def test_file_at_checkpoints(package, tmp_path, wanted):
    path = tmp_path / "small.safetensors"
    checkpoints = importlib.import_module(f"{package.__name__}.callbacks").ModelCheckpoint(
        tmp_path, filename="saved"
    )
    stopped = trainer(package, tmp_path, checkpoints, SparsityCallback(path, at_checkpoints=wanted))
    with pytest.raises(RuntimeError, match="the power is gone"):
        stopped.fit(make_module(package, fail_in_epoch=1), loader())
    assert path.exists() == wanted
    if wanted:
        expected = torch.load(tmp_path / "saved.ckpt", weights_only=True)["state_dict"]
        assert all(torch.equal(tensor, expected[name]) for name, tensor in load_sparse(path).items())


def test_resume_is_exact(package, tmp_path):
    whole = make_module(package)
    trainer(package, tmp_path / "whole", epochs=5).fit(whole, loader())
    first = trainer(package, tmp_path / "parts", SparsityCallback(), epochs=2)
    first.fit(make_module(package), loader())
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed = make_module(package)
    nn.init.ones_(resumed.rest.weight)  # what is not restored shows
    second = trainer(package, tmp_path / "parts", SparsityCallback(), epochs=5)
    second.fit(resumed, loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert_same(resumed.optimizers().optimizer, whole.optimizers().optimizer)
    assert any((parameter == 0).any() for parameter in resumed.parameters())


def test_pytorch_lightning_alone_is_enough():
    code = """
import sys
sys.modules["lightning"] = None
import pytorch_lightning
from dirprune.integrations.lightning import SparsityCallback
assert issubclass(SparsityCallback, pytorch_lightning.Callback)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
