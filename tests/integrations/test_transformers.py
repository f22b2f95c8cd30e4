"""gRDA in the Hugging Face Trainer: what is thresholded, logged and written; a resume is exact."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from dirprune import GRDA, load_sparse
from dirprune.integrations.transformers import PrunableGRDA, SparsityCallback
from tests.optim.common import assert_same

OPTIONS = {"lr": 0.3, "c": 0.02, "mu": 0.7}
EPOCHS = 4


def make_model(seed=0):
    torch.manual_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=16,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=8,
        )
    )


def examples():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 16, (24, 6), generator=generator)
    return [{"input_ids": row, "labels": row[0] % 2} for row in ids]


def make_trainer(folder, *, model=None, optimizer=(GRDA, OPTIONS), callbacks=(), **arguments):
    defaults = {
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": 8,
        "lr_scheduler_type": "constant",
        "logging_strategy": "epoch",
        "save_strategy": "epoch",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return Trainer(
        model=model or make_model(),
        args=TrainingArguments(output_dir=str(folder), **(defaults | arguments)),
        train_dataset=examples(),
        optimizer_cls_and_kwargs=optimizer,
        callbacks=list(callbacks),
    )


class Witness(TrainerCallback):
    """Counts zeros by itself, and keeps what loggers are told."""

    def __init__(self):
        self.seen, self.told = [], []

    def on_epoch_end(self, *_, model, **__):
        weights = torch.cat([p.detach().flatten() for p in model.parameters()]).double().numpy()
        self.seen.append(float((weights == 0).mean()))

    def on_log(self, *_, logs, **__):
        self.told.append(dict(logs))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder, witness = tmp_path_factory.mktemp("trained"), Witness()
    trainer = make_trainer(folder, callbacks=[witness])
    trainer.add_callback(SparsityCallback(trainer, per_layer=True, in_checkpoints=True))
    trainer.train()
    return folder, trainer, witness


def test_sparsity_reaches_every_log(trained):
    _, trainer, witness = trained
    rows = [row for row in trainer.state.log_history if "sparsity" in row]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["sparsity"] for row in rows] == pytest.approx(witness.seen)
    assert witness.seen[-1] > witness.seen[0] > 0
    assert [told["sparsity"] for told in witness.told if "sparsity" in told] == pytest.approx(witness.seen)
    weight = trainer.model.classifier.weight
    assert rows[-1]["sparsity/classifier.weight"] == pytest.approx(float((weight == 0).double().mean()))


def test_the_loss_is_still_logged(trained):
    _, trainer, _ = trained
    assert [row["epoch"] for row in trainer.state.log_history if "loss" in row] == [1, 2, 3, 4]


def test_files(trained):
    folder, trainer, _ = trained
    state = load_sparse(folder / "model.sparse.safetensors", make_model(seed=1))
    assert all(torch.equal(state[name], tensor) for name, tensor in trainer.model.state_dict().items())
    checkpoints = sorted(folder.glob("checkpoint-*"))
    assert len(checkpoints) == EPOCHS
    for checkpoint in checkpoints:
        state = load_sparse(checkpoint / "model.sparse.safetensors")
        for name, tensor in load_file(checkpoint / "model.safetensors").items():
            assert torch.equal(state[name], tensor)


def test_table_is_printed(tmp_path, capsys):
    trainer = make_trainer(tmp_path, num_train_epochs=1, save_strategy="no")
    trainer.add_callback(SparsityCallback(trainer, tmp_path / "new" / "small"))
    trainer.train()
    parameters = list(trainer.model.parameters())
    zeros = sum(int((parameter == 0).sum()) for parameter in parameters)
    (total,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("total")]
    assert total.split()[1:3] == [f"{sum(map(torch.numel, parameters)):,}", f"{zeros:,}"]
    assert not any("sparsity/" in key for row in trainer.state.log_history for key in row)
    assert (tmp_path / "new" / "small").is_file()
    assert not list(tmp_path.rglob("model.sparse.safetensors"))


class Interruption(TrainerCallback):
    def on_epoch_end(self, _args, state, control, **_):
        control.should_training_stop = state.epoch >= 2


@pytest.mark.parametrize(
    "optimizer",
    [
        (GRDA, OPTIONS),
        (PrunableGRDA, OPTIONS | {"momentum": 0.5, "accumulator_dtype": torch.bfloat16}),
    ],
    ids=["every parameter", "weights, momentum, bfloat16 accumulator"],
)
def test_resume_is_exact(tmp_path, optimizer):
    """Dropout and the order of the data included."""
    whole = make_trainer(tmp_path / "whole", optimizer=optimizer, save_strategy="no")
    whole.train()
    make_trainer(tmp_path / "parts", optimizer=optimizer, callbacks=[Interruption()]).train()
    last = max((tmp_path / "parts").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert torch.load(last / "optimizer.pt", weights_only=True)["state"][0]["accumulator"].numel()
    resumed = make_trainer(tmp_path / "parts", model=make_model(seed=9), optimizer=optimizer)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 3 * EPOCHS
    assert_same(resumed.optimizer.optimizer, whole.optimizer.optimizer)
    assert any((parameter == 0).any() for parameter in resumed.model.parameters())


def test_prunable_grda_keeps_the_rest_dense(tmp_path):
    trainer = make_trainer(tmp_path, optimizer=(PrunableGRDA, OPTIONS), save_strategy="no")
    padding = trainer.model.get_input_embeddings().padding_idx
    trainer.train()
    for name, module in trainer.model.named_modules():
        for kind, parameter in module.named_parameters(recurse=False):
            zeros = parameter == 0
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                zeros = zeros[torch.arange(len(zeros)) != padding]
            assert zeros.any() == (isinstance(module, nn.Linear) and kind == "weight"), f"{name}.{kind}"


def test_every_parameter_with_grda_itself(trained):
    _, trainer, _ = trained
    zero = {name for name, parameter in trainer.model.named_parameters() if (parameter == 0).any()}
    assert {"bert.embeddings.position_embeddings.weight", "bert.pooler.dense.bias"} <= zero


def test_the_rate_is_that_of_the_optimizer(tmp_path):
    trainer = make_trainer(tmp_path, learning_rate=1e-5, num_train_epochs=1, save_strategy="no")
    trainer.train()
    assert [row["learning_rate"] for row in trainer.state.log_history if "loss" in row] == [OPTIONS["lr"]]


def test_the_weight_decay_is_that_of_the_optimizer_or_of_the_arguments(tmp_path):
    options = {**OPTIONS, "weight_decay": 0.05}
    for optimizer, expected in ((PrunableGRDA, {0.05}), (GRDA, {0.0, 0.01})):
        trainer = make_trainer(tmp_path, optimizer=(optimizer, options), weight_decay=0.01)
        trainer.create_optimizer()
        assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == expected


@pytest.mark.parametrize("kind", [GPT2LMHeadModel, GPT2ForSequenceClassification])
def test_of_gpt2_the_maps_are_thresholded_and_the_tied_embedding_is_not(kind):
    sizes = {"vocab_size": 16, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    model = kind(GPT2Config(**sizes, pad_token_id=0))
    optimizer = PrunableGRDA()(model, **OPTIONS)
    sparse = {id(parameter) for parameter in optimizer.param_groups[0]["params"]}
    chosen = {name for name, parameter in model.named_parameters() if id(parameter) in sparse}
    block = "transformer.h.0."
    maps = {f"{block}{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    assert chosen == maps | ({"score.weight"} if kind is GPT2ForSequenceClassification else set())
