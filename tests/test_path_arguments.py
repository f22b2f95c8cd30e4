"""What takes a path takes a str, a Path, and whatever else os.fspath knows."""

import os
from dataclasses import replace

import pytest
import torch

from dirprune.compare import Comparison, Protocol
from dirprune.compare.archive import restore_runs, save_runs
from dirprune.data import load_dataset
from dirprune.integrations.model_card import Provenance
from dirprune.landscape import Norms, NormSeries, Store, keep
from dirprune.report import read_comparison, summarise, write_report
from dirprune.runs import RunFolder, find_runs, is_of_a_run
from dirprune.train import Experiment, Job, TrainConfig, run_experiment

CONFIG = TrainConfig(recipe="test", dataset="digits", model="lenet-300-100", width=0.1, epochs=1)
EXPERIMENT = Experiment(config=CONFIG, methods=("sgd",))
SERIES = NormSeries({"k": 1}, (0,), (Norms(1, 2.0, 3.0),), (Norms(4, 5.0, 6.0),))


class Somewhere(os.PathLike):
    """A path of another library."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


KINDS = pytest.mark.parametrize("kind", [str, Somewhere])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    torch.set_num_threads(1)
    run_experiment(EXPERIMENT, load_dataset("digits"), str(folder))
    return folder


@KINDS
def test_an_experiment_s_jobs(kind, tmp_path):
    (job,) = EXPERIMENT.jobs(kind(tmp_path), data_dir=kind(tmp_path / "data"))
    assert job.folder == tmp_path / CONFIG.with_method("sgd").run_name
    assert Job.from_json(job.to_json()) == job
    assert Job(config=CONFIG, folder=kind(job.folder)).name == job.name


@KINDS
def test_run_experiment(kind, trained):
    (run,) = run_experiment(EXPERIMENT, load_dataset("digits"), kind(trained))  # it is over
    assert run.path.parent == trained


@KINDS
def test_run_folders(kind, trained):
    (run,) = find_runs(kind(trained))
    assert RunFolder(kind(run.path)) == run
    assert RunFolder(kind(run.path)).sparse_file.is_file()
    assert is_of_a_run(kind(run.sparse_file))


@KINDS
def test_reports(kind, trained):
    (summary,) = summarise(kind(trained))
    assert summary.label == "SGD"
    assert read_comparison(kind(trained)) is None
    assert write_report(kind(trained)) == trained / "report.html"
    assert Provenance.of_run(kind(trained)).dataset == "digits"


@KINDS
def test_kept_runs(kind, trained, tmp_path):
    assert save_runs(kind(trained), kind(tmp_path / "runs.jsonl")) == 1
    assert restore_runs(kind(tmp_path / "runs.jsonl"), kind(tmp_path / "again")) == 1
    assert find_runs(tmp_path / "again")[0].config() == find_runs(trained)[0].config()


@KINDS
def test_the_archive_of_a_comparison(kind, tmp_path):
    config = replace(CONFIG, prune="weights", validation=0.2)
    protocol = Protocol(config=config, methods=("sgd",), sparsities=(0.5,), seeds=2, trials=1)
    comparison = Comparison(protocol, None, kind(tmp_path / "none.jsonl"))
    comparison._take_from_archive()
    assert not list(tmp_path.iterdir())


@KINDS
def test_results_of_the_landscape(kind, tmp_path):
    folder = kind(tmp_path)
    SERIES.save(folder, {"command": "me"})
    assert NormSeries.load(folder).sgd == SERIES.sgd
    assert NormSeries.environment(folder) == {"command": "me"}
    assert keep(NormSeries, folder, {"k": 1}, {}, lambda _: pytest.fail("made again")).sgd == SERIES.sgd
    store = Store(folder, {"k": 1}, "norms")
    store.save()
    assert store.beside("more").parent == tmp_path
