"""Publishing and loading: networks come back to the bit, pages tell the truth, strangers get no further."""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from torch import nn

from dirprune.errors import RunFolderError, SparseFileError, UsageError
from dirprune.integrations import hub
from dirprune.integrations.hub import Provenance, from_pretrained, push_to_hub, save_pretrained
from dirprune.models import create_model
from tests.report.conftest import Experiment

LENET = {"name": "lenet-300-100", "num_classes": 10, "in_channels": 1, "image_size": 8}
KNOWN = Provenance(dataset="digits", recipe="gRDA c=0.01, 9 epochs", accuracy=0.96944, license="mit")


def sparse(model):
    """Set most weights to zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[torch.rand(parameter.shape) < 0.9] = 0
    return model


def same(a, b):
    states = a.state_dict(), b.state_dict()
    return list(states[0]) == list(states[1]) and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


@pytest.mark.parametrize(
    "architecture",
    [
        LENET,
        {"name": "wrn10x1", "num_classes": 3, "image_size": 8, "width": 0.5},
        {"name": "timm/test_vit", "num_classes": 3, "image_size": 32},
    ],
    ids=lambda architecture: architecture["name"],
)
def test_networks_by_name_come_back(architecture, tmp_path):
    model = sparse(create_model(**architecture))
    save_pretrained(model, tmp_path / "new" / "net", architecture=architecture)
    again = from_pretrained(tmp_path / "new" / "net")
    assert same(again, model)
    assert not again.training


def test_own_module_comes_back_into_one_like_it(tmp_path):
    model, other = (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)) for _ in range(2))
    save_pretrained(sparse(model), tmp_path)
    assert from_pretrained(str(tmp_path), other) is other
    assert same(other, model)
    with pytest.raises(UsageError, match="its author's own architecture: pass a module of it, model="):
        from_pretrained(tmp_path)
    with pytest.raises(SparseFileError, match="does not fit the model"):
        from_pretrained(tmp_path, nn.Linear(5, 4))


def test_compact_values(tmp_path):
    model = sparse(create_model(**LENET))
    exact = save_pretrained(model, tmp_path / "exact", architecture=LENET)
    rounded = save_pretrained(model, tmp_path / "rounded", architecture=LENET, values="bf16", compress=True)
    assert rounded.bytes < exact.bytes
    again = from_pretrained(tmp_path / "rounded")
    assert torch.equal(again.fc1.weight, model.fc1.weight.bfloat16().float())


# -- the page ------------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path):
    model = sparse(create_model(**LENET))
    save_pretrained(model, tmp_path / "tiny", architecture=LENET, provenance=KNOWN)
    return tmp_path / "tiny", model


def test_page_states_what_is_so(published):
    folder, model = published
    weights = np.concatenate([p.detach().double().numpy().ravel() for p in model.parameters()])
    page = (folder / "README.md").read_text()
    row = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", page, flags=re.MULTILINE))
    zeros = f"{100 * (weights == 0).mean():.2f} %"
    assert row["sparsity"] == f"{zeros} of {weights.size:,} trainable parameters are zero"
    assert row["test accuracy"] == "96.94 %"
    assert row["recipe"] == "gRDA c=0.01, 9 epochs"
    assert row["size, dense"] == f"{4 * weights.size / 1024:.0f} KiB"
    kib = (folder / "model.sparse.safetensors").stat().st_size / 1024
    assert row["size, sparse"].startswith(f"{kib:.1f} KiB")
    assert "lenet-300-100" in page


def test_metadata_is_what_the_hub_reads(published):
    folder, _ = published
    data = ModelCard.load(folder / "README.md").data
    assert (data.library_name, data.license, data.model_name) == ("dirprune", "mit", "tiny")
    (result,) = data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("digits", "accuracy", 0.96944)
    assert result.dataset_split == "test"


def test_code_on_the_page_runs(published, monkeypatch):
    folder, model = published
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(folder.parent)
    names = {}
    exec(code, names)
    assert same(names["model"], model)


def test_texts_stay_within_their_cells_and_quotes(tmp_path, monkeypatch):
    model = sparse(create_model(**LENET))
    recipe = "first | then\n\n# Not a heading"
    folder = tmp_path / 'a "net"'
    save_pretrained(model, folder, architecture=LENET, provenance=Provenance(recipe=recipe))
    page = (folder / "README.md").read_text()
    assert r"| recipe | first \| then # Not a heading |" in page.splitlines()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert same(names["model"], model)


def test_page_leaves_out_what_is_not_known(tmp_path):
    save_pretrained(nn.Linear(3, 2), tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "accuracy" not in page
    assert "None" not in page
    assert "from_pretrained(" in page
    assert ", model)  # a module of the same architecture" in page
    assert "directional-pruning[hub]'" in page


@pytest.mark.parametrize(("name", "extra"), [("timm/test_vit", "timm"), ("resnet50", "train")])
def test_page_names_the_extra_that_loading_needs(tmp_path, name, extra):
    architecture = {"name": name, "num_classes": 3, "image_size": 32}
    save_pretrained(create_model(**architecture), tmp_path, architecture=architecture)
    assert f"directional-pruning[hub,{extra}]'" in (tmp_path / "README.md").read_text()


def test_provenance_of_a_run(tmp_path):
    experiment = Experiment(tmp_path)
    run = experiment.add(
        "run", {"method": "grda", "c": 5e-4, "batch_size": 32, "validation": 0.2}, {"test_accuracy": 0.9125}
    )
    known = Provenance.of_run(run, license="mit")
    assert (known.dataset, known.accuracy, known.measured_on, known.license) == (
        "digits",
        0.9125,
        "validation",
        "mit",
    )
    for part in ("gRDA c=5e-4 mu=0.6", "lr 0.1", "batch size 32", "epochs 3", "digits"):
        assert part in known.recipe
    experiment.add("unfinished", {"seed": 1})
    for folder in (tmp_path, tmp_path / "unfinished"):
        with pytest.raises(RunFolderError, match="is not one finished run: name the folder of one"):
            Provenance.of_run(folder)


@pytest.mark.parametrize("accuracy", [-0.1, 96.9, float("nan")])
def test_accuracy_is_a_fraction(accuracy):
    with pytest.raises(UsageError, match=r"accuracy must be a fraction in \[0, 1\], got"):
        Provenance(accuracy=accuracy)


# -- strangers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is no JSON that can be read"),
        ("[" * 100_000, "is no JSON that can be read"),
        ("[]", "has no architecture: it was not written by save_pretrained"),
        ("{}", "has no architecture"),
        (
            {"architecture": "lenet5"},
            "expected name, num_classes, in_channels, image_size, width, got 'lenet5'",
        ),
        ({"architecture": {"name": "lenet5"}}, "expected name, num_classes"),
        ({"architecture": LENET | {"path": "/etc/passwd"}}, "expected name, num_classes"),
        ({"architecture": LENET | {"name": ["lenet5"]}}, "name must be a text"),
        ({"architecture": LENET | {"name": "lenet6"}}, "unknown network 'lenet6'; did you mean 'lenet5'"),
        ({"architecture": LENET | {"name": "timm/hf-hub:someone/resnet18"}}, "timm has no network"),
        ({"architecture": LENET | {"num_classes": True}}, "num_classes must be a number up to"),
        ({"architecture": LENET | {"num_classes": "10"}}, "num_classes must be a number up to"),
        ({"architecture": LENET | {"num_classes": 10**30}}, "num_classes must be a number up to"),
        ({"architecture": LENET | {"in_channels": -1}}, "in_channels must be a number up to"),
        ({"architecture": LENET | {"width": float("nan")}}, "width must be a number up to"),
        ({"architecture": LENET | {"width": float("inf")}}, "width must be a number up to"),
        ({"architecture": LENET | {"image_size": 2**20, "in_channels": 2**20}}, "cannot be built"),
    ],
)
def test_what_config_json_may_not_say(config, message, published):
    folder, _ = published
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(UsageError, match=message) as caught:
        from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "change", [{"image_size": 2**15}, {"width": 300.0}, {"name": "lenet5", "image_size": 28}]
)
def test_no_network_is_made_that_is_not_the_file_s(change, published, monkeypatch):
    """The shapes are compared before memory is taken."""
    folder, _ = published
    devices = []

    @functools.wraps(create_model)
    def watched(**arguments):
        devices.append(torch.get_default_device().type)
        return create_model(**arguments)

    monkeypatch.setattr(hub, "create_model", watched)
    (folder / "config.json").write_text(json.dumps({"architecture": LENET | change}))
    with pytest.raises(
        UsageError, match=r"model\.sparse\.safetensors has other parameters than \{'name': 'lenet"
    ):
        from_pretrained(folder)
    assert devices == ["meta"]


def test_damaged_sparse_file(published):
    folder, _ = published
    path = folder / "model.sparse.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(SparseFileError, match="its checksum does not fit"):
        from_pretrained(folder)


def test_missing_files(tmp_path):
    with pytest.raises(UsageError, match=r"config\.json is missing: it was not written by save_pretrained"):
        from_pretrained(tmp_path)
    with pytest.raises(SparseFileError, match="expected a sparse file, found nothing"):
        from_pretrained(tmp_path, nn.Linear(2, 2))


def test_architecture_that_is_not_the_model_s(tmp_path):
    with pytest.raises(UsageError, match=r"the model has other parameters than \{'name': 'lenet"):
        save_pretrained(nn.Linear(2, 2), tmp_path / "new", architecture=LENET)
    with pytest.raises(UsageError, match="architecture: expected name, num_classes"):
        save_pretrained(nn.Linear(2, 2), tmp_path / "new", architecture={"model": "lenet5"})
    assert not (tmp_path / "new").exists()


# -- the hub, without a network ------------------------------------------------------------------------


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    """The hub as a folder: what is uploaded can be downloaded."""
    root = tmp_path / "hub"
    calls = SimpleNamespace(created=None, commit=None, downloaded=None)

    def create_repo(self, repo_id, *, private=None, exist_ok=False):
        calls.created = (self.token, repo_id, private, exist_ok)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id, folder_path, revision, commit_message):
        calls.commit = (revision, commit_message)
        for path in Path(folder_path).iterdir():
            target = root / repo_id / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        return SimpleNamespace(commit_url=f"https://hub.example/{repo_id}/commit/1")

    def snapshot_download(repo_id, *, allow_patterns, **options):
        calls.downloaded = (sorted(allow_patterns), options)
        return str(root / repo_id)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return root, calls


def test_push_and_load(fake_hub):
    root, calls = fake_hub
    model = sparse(create_model(**LENET))
    address = push_to_hub(
        model,
        "someone/tiny",
        private=True,
        token="a-token",
        commit_message="First",
        architecture=LENET,
        provenance=KNOWN,
        compress=True,
    )
    assert address == "https://hub.example/someone/tiny/commit/1"
    assert calls.created == ("a-token", "someone/tiny", True, True)
    assert calls.commit == (None, "First")
    files = sorted(path.name for path in (root / "someone" / "tiny").iterdir())
    assert files == ["README.md", "config.json", "model.sparse.safetensors"]
    assert 'from_pretrained("someone/tiny")' in (root / "someone" / "tiny" / "README.md").read_text()
    assert same(from_pretrained("someone/tiny", revision="v1"), model)
    assert calls.downloaded == (["config.json", "model.sparse.safetensors"], {"revision": "v1"})


@pytest.mark.parametrize(
    ("source", "reason"),
    [("some one/tiny", "Repo id must use"), ("someone/tiny", "Cannot find an appropriate")],
)
def test_what_cannot_be_downloaded(source, reason, tmp_path):
    """The hub's own client, kept from the network."""
    with pytest.raises(
        UsageError, match=f"{source}.*no folder, and no repository that can be read: .*{reason}"
    ) as caught:
        from_pretrained(source, cache_dir=tmp_path, local_files_only=True)
    assert "\n" not in str(caught.value)


def test_nothing_but_the_hub_s_extra_is_needed():
    code = """
import sys
for name in ("accelerate", "datasets", "jinja2", "matplotlib", "rich", "scipy", "torchvision", "tyro"):
    sys.modules[name] = None
import tempfile
from dirprune.integrations.hub import from_pretrained, save_pretrained
from dirprune.models import create_model
arguments = {"name": "lenet-300-100", "num_classes": 10, "in_channels": 1, "image_size": 8}
with tempfile.TemporaryDirectory() as folder:
    save_pretrained(create_model(**arguments), folder, architecture=arguments)
    from_pretrained(folder)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
