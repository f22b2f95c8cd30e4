"""The command line as a person meets it: one clear line, the right exit code, nothing lost."""

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dirprune
from dirprune.cli import COMMANDS, main
from dirprune.core.threshold import RULES
from dirprune.runs import RunFolder, find_runs

QUICK = ["--seeds", "1", "--epochs", "2", "--threads", "1", "--jobs", "1"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "dirprune", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        **options,
    )


BAD = [
    (["trian"], 2, "unknown command 'trian'"),
    (["train", "digitz"], 2, "did you mean 'digits'?"),
    (["train", "digits", "--muu", "0.6"], 2, "did you mean --mu?"),
    (["train", "digits", "--mu", "much"], 2, "'much'"),
    (["train", "digits", "--mu", "0"], 2, "--mu must be in (0, 1], got 0.0"),
    (["train", "digits", "--c", "-1"], 2, "--c must be a finite number >= 0, got -1.0"),
    (["train", "digits", "--epochs", "0"], 2, "--epochs must be >= 1"),
    (["train", "digits", "--seeds", "0"], 2, "--seeds must be >= 1"),
    (["train", "digits", "--threads", "0"], 2, "--threads must be >= 1"),
    (["train", "digits", "--threads", "99999999999999"], 2, "--threads must be <= 4096, got 99999999999999"),
    (["tune", "digits", "--threads", "99999999999999"], 2, "--threads must be <= 4096, got 99999999999999"),
    (["compare", "digits", "--threads", "99999999999999"], 2, "--threads must be <= 4096"),
    (["bench", "step", "--threads", "99999999999999"], 2, "--threads must be <= 4096"),
    (["bench", "inference", "nowhere", "--threads", "99999999999999"], 2, "--threads must be <= 4096"),
    (["train", "digits", "--jobs", "0"], 2, "--jobs must be >= 1"),
    (["train", "digits", "--sparsity", "0.9"], 2, "--sparsity belongs to none of sgd, grda"),
    (["train", "digits", "--methods", "sgd", "--c", "0.5"], 2, "--c belongs to none of sgd"),
    (["train", "digits", "--methods", "sgd", "--penalty=l0"], 2, "--penalty belongs to none of sgd"),
    (["train", "digits", "--methods", "l0", "adabreg", "--momentum", "0.9"], 2, "none of l0, adabreg"),
    (["train", "digits", "--methods", "adam"], 2, "unknown method 'adam'"),
    (["train", "digits", "--tracker", "tensorbord"], 2, "unknown tracker 'tensorbord'"),
    (["train", "digits", "--snapshots", "1", "-1"], 2, "--snapshots must be >= 0, got -1"),
    (["train", "digits", "--epochs", "3", "--snapshots", "1", "4"], 2, "within --epochs, which is 3: got 4"),
    (["train", "digits", "--ray", "local", "--jobs", "2"], 2, "leave out --jobs"),
    (["train", "digits", "--checkpoint-every", "5"], 2, "--checkpoint-every must be epochs or"),
    (["train", "resnet50-imagenet", "--data-dir", "/typo", "--dry-run"], 2, "'/typo' does not exist"),
    (["train", "wrn16x4-cifar10o"], 2, "did you mean 'wrn16x4-cifar10'?"),
    (["train", "digits", "--data-dir", ".", "--dry-run"], 2, "digits comes with scikit-learn"),
    (["train", "digits", "--validation", "0.9999", "--dry-run"], 2, "leaves nothing to train or to measure"),
    (["train", "digits", "--dataset", "digit"], 2, "did you mean"),
    (["train", "digits", "--model", "lenet", *QUICK], 2, "unknown network 'lenet'"),
    (["train", "digits", "--model", "vgg16", *QUICK], 2, "vgg16 needs images of 32 pixels or more"),
    (["train", "digits", "--mean", "0.1", "0.2", "--std", "1", "1", *QUICK], 2, "--mean must have 1 value"),
    (["train", "lenet5-fashion_mnist", "--data-dir", "./nowhere"], 2, "nowhere"),
    (["tune", "digitz"], 2, "did you mean 'digits'?"),
    (["tune", "digits", "--target-sparsity", "1.5"], 2, "--target-sparsity must be in (0, 1)"),
    (
        ["tune", "digits", "--target-sparsity", "0.9", "--trial-epochs", "2"],
        2,
        "predicted from 4 --trial-epochs",
    ),
    (["tune", "digits", "--target-sparsity", "0.9", "--epochs", "3"], 2, "of --epochs at least, got 3"),
    (["tune", "digits", "--target-sparsity", "0.9", "--seeds", "5"], 2, "leave them out with --target-spars"),
    (["tune", "digits", "--seeds", "0"], 2, "--seeds must be >= 1, got 0"),
    (["tune", "digits", "--threads", "0"], 2, "--threads must be >= 1, got 0"),
    (["tune", "digits", "--jobs", "-1"], 2, "--jobs must be >= 1, got -1"),
    (["tune", "digits", "--trial-epochs", "0"], 2, "--trial-epochs must be >= 1, got 0"),
    (["tune", "digits", "--margin", "nan"], 2, "--margin must be in [0, 100] points, got nan"),
    (["tune", "digits", "--mu"], 2, "--mu must name at least one value"),
    (["tune", "digits", "--sparsity", "0.9"], 2, "gRDA has --target-sparsity"),
    (["report"], 2, "FOLDER"),
    (["report", "nowhere"], 2, "nowhere does not exist"),
    (["report", "."], 2, "holds no runs"),
    (["report", __file__], 2, "test_main.py is a file: give a folder"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input_is_one_line(arguments, code, message, capsys):
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert message in error
    assert re.search(r"`\w+`", error) is None  # a setting is named by its flag
    assert error.count("\n") == 1
    assert "Traceback" not in error


@pytest.mark.parametrize("arguments", [[], ["train"], ["tune"]], ids=str)
def test_without_a_request_the_usage_is_shown(arguments, capsys):
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out.startswith(" ".join(["usage: dirprune", *arguments]))
    assert error == ""


def test_options_reach_the_run(tmp_path):
    words = "--momentum 0.9 --nesterov --weight-decay 1e-3 --crop-padding 1 --methods sgd"
    schedule = "--schedule StepLR --schedule-args step_size=1 gamma=0.5"
    assert main(["train", "digits", *QUICK, *words.split(), *schedule.split()]) == 0
    (run,) = find_runs(next((tmp_path / "runs").iterdir()))
    told = ("momentum", "nesterov", "weight_decay", "crop_padding")
    assert [run.config()[key] for key in told] == [0.9, True, 1e-3, 1]
    assert [record["lr"] for record in run.metrics()] == pytest.approx([0.1, 0.05])


def test_snapshots_that_come_too_late_are_told(capsys):
    words = ["train", "digits", *QUICK, "--methods", "sgd", "--snapshots", "1"]
    assert main(words) == 0
    assert "snapshot" not in capsys.readouterr().out
    assert main([*words, "0", "2"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "note: sgd-seed0 has no snapshot of epoch 0, 2, for it was past it; another --out" in said


def test_a_tracker_that_comes_too_late_is_told(capsys):
    words = ["train", "digits", *QUICK, "--methods", "sgd"]
    assert main(words) == 0
    assert main([*words, "--tracker", "tensorboard"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "note: sgd-seed0 was over before tensorboard was asked for; another --out trains it anew" in said


def test_debug_shows_where(capsys):
    assert main(["report", "nowhere", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_internal_errors_are_one_line_and_not_hidden(capsys, monkeypatch):
    def fail(given):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("dirprune.cli._dispatch", fail)
    assert main(["train", "digits"]) == 1
    assert capsys.readouterr().err.startswith("dirprune: internal error, ZeroDivisionError: division by zero")


def no_memory_on_a_device():
    raise torch.OutOfMemoryError("CUDA out of memory")


NO_MEMORY = [lambda: torch.empty(2**60, dtype=torch.uint8), lambda: bytearray(2**60), no_memory_on_a_device]


@pytest.mark.parametrize("ask", NO_MEMORY, ids=["torch", "python", "device"])
def test_no_memory_is_one_line_with_what_to_do(ask, capsys, monkeypatch):
    monkeypatch.setattr("dirprune.cli._dispatch", lambda _: ask())
    assert main(["train", "digits"]) == 1
    line = "dirprune: out of memory: lower --batch-size, --width or --jobs, or raise --accumulation\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_said_of_memory_and_of_a_stop_fits_the_command(command, capsys, monkeypatch):
    def fail(given):
        raise given

    monkeypatch.setattr("dirprune.cli._command", lambda _: lambda rest: fail(*rest))
    assert main([command, MemoryError()]) == 1
    with_options = command in ("train", "tune", "compare")
    error = capsys.readouterr().err
    assert ("--batch-size" in error) == with_options
    assert ("--accumulation" in error) == (command == "train")
    assert ("--batch or" in error) == (command == "landscape")
    assert main([command, KeyboardInterrupt()]) == 130
    assert ("goes on" in capsys.readouterr().err) == (with_options or command == "landscape")


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    assert "dirprune train RECIPE" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dirprune {dirprune.__version__}\n"
    assert main(["train", "--help"]) == 0
    assert "lenet5-fashion_mnist" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["train", "digits", "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "--mu" in told
    explained = told.partition("what becomes zero:")[2].partition("--sparsity")[0]
    assert all(re.search(rf"\({penalty}\b", explained) for penalty in RULES), explained


def test_train_report_and_resume(tmp_path, capsys):
    assert main(["train", "digits", *QUICK]) == 0
    out = capsys.readouterr().out
    page = tmp_path / "runs" / "digits-epochs2" / "report.html"
    assert "SGD" in out
    assert "gRDA" in out
    assert str(page.relative_to(tmp_path)) in out
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")

    result = page.parent / "grda-c0.01-mu0.6-seed0" / "result.json"
    first = result.stat().st_mtime_ns
    environment = json.loads((result.parent / "environment.json").read_text())
    assert environment["command"] == "dirprune train digits " + " ".join(QUICK)
    page.unlink()
    assert main(["train", "digits", *QUICK]) == 0  # everything is done
    assert result.stat().st_mtime_ns == first
    page.unlink()
    assert main(["report", str(page.parent)]) == 0
    assert page.is_file()


def test_damaged_checkpoints_are_one_line_each(tmp_path):
    quick = ["train", "digits", *QUICK, "--methods", "sgd", "--out", "kept"]
    assert main(quick) == 0
    found = find_runs(tmp_path / "kept" / "digits-epochs2")[0].path
    (found / "result.json").unlink()
    for checkpoint in (found / "checkpoints").iterdir():
        checkpoint.write_bytes(b"zz")
    said = run(*quick).communicate(timeout=120)[1].splitlines()
    assert all(line.startswith("dirprune: ") for line in said), said
    assert "note: cannot read" in said[0]
    assert said[-2].endswith("(BadZipFile)"), said
    assert "no checkpoint in" in said[-1]


def test_divergence_ends_with_code_1_and_a_report(tmp_path, capsys):
    assert main(["train", "digits", *QUICK, "--lr", "1e6", "--methods", "sgd"]) == 1
    out, error = capsys.readouterr()
    assert "diverged: the loss is not finite" in out
    assert error == "dirprune: 1 of 1 runs diverged: sgd-seed0\n"
    assert (tmp_path / "runs" / "digits-lr1e+06-epochs2" / "report.html").is_file()


def test_odd_names_of_folders(tmp_path, capsys):
    assert main(["train", "digits", *QUICK, "--methods", "sgd", "--out", "x[/y] [bold]rü n"]) == 0
    assert "x[/y] [bold]rü n/digits-epochs2/report.html" in capsys.readouterr().out
    assert list(tmp_path.glob("x*/y*/digits-epochs2/report.html"))


def test_usage_errors_leave_nothing_behind(tmp_path, capsys):
    assert main(["train", "digits", "--model", "../../evil/x"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_output_that_cannot_show_a_path_does_not_lose_the_run(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "dirprune",
        "train",
        "digits",
        *QUICK,
        "--methods",
        "sgd",
        "--out",
        "rü n",
    ]
    assert (
        subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False).returncode
        == 0
    )


def test_the_command_answers_before_torch_is_loaded():
    code = "import sys; from dirprune.cli import main; main(['--version']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_disk_full_at_any_write_is_one_line_and_nothing_is_lost(tmp_path, capsys, monkeypatch):
    short = ["train", "digits", "--seeds", "1", "--epochs", "1", "--methods", "grda"]
    assert main([*short, "--out", "whole"]) == 0
    flush, failures = os.fsync, 0
    for write in range(1, 40):
        left = write

        def full(descriptor):
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            flush(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        out = f"full{write}"
        capsys.readouterr()
        code = main([*short, "--out", out])
        monkeypatch.setattr(os, "fsync", flush)
        if code == 0:
            break
        failures += 1
        assert code == 1
        error = capsys.readouterr().err
        assert "no space left" in error
        assert error.count("\n") == 1
        assert main([*short, "--out", out]) == 0
        model = "digits-epochs1/grda-c0.01-mu0.6-seed0/model.sparse.safetensors"
        assert (tmp_path / out / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()
    else:
        pytest.fail("more than 39 writes: the last ones were not tried")
    assert failures >= 10


def test_unwritable_folder_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["train", "digits", *QUICK, "--out", "file"]) == 2
    error = capsys.readouterr().err
    assert "choose a folder that you may read and write" in error


def test_full_disk_is_one_line_and_the_last_checkpoint_stays(tmp_path):
    """A limit on the size of files stands in for a full disk: both end a write in the middle."""
    assert main(["train", "digits", *QUICK, "--methods", "grda"]) == 0
    whole = tmp_path / "runs" / "digits-epochs2" / "grda-c0.01-mu0.6-seed0"
    size = max(path.stat().st_size for path in (whole / "checkpoints").iterdir())

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    process = run("train", "digits", *QUICK, "--methods", "grda", "--out", "full", preexec_fn=limit)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert error.count("\n") == 1
    assert "no space left" in error
    left = tmp_path / "full" / "digits-epochs2" / whole.name
    assert list(left.rglob("*.tmp")) == []
    assert not (left / "result.json").exists()
    assert main(["train", "digits", *QUICK, "--methods", "grda", "--out", "full"]) == 0
    assert RunFolder(left).sparse_file.read_bytes() == RunFolder(whole).sparse_file.read_bytes()


@pytest.fixture
def endless(tmp_path):
    """A run that has recorded an epoch and would go on for long."""
    command = ["train", "digits", "--methods", "grda", "--seeds", "1", "--epochs", "5000"]
    process = run(*command)
    log = tmp_path / "runs" / "digits-epochs5000" / "grda-c0.01-mu0.6-seed0" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not log.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert log.is_file()
    yield process, command, log.parent
    process.kill()
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_saves_and_says_how_to_go_on(number, endless):
    process, _, folder = endless
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.startswith("dirprune: stopped")
    assert error.count("\n") == 1
    assert list((folder / "checkpoints").glob("step-*.pt"))


def test_a_run_of_another_process_is_left_to_it(endless, capsys):
    _, command, _ = endless
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "grda-c0.01-mu0.6-seed0: left to another process" in out
    assert "unfinished" in out


def test_a_set_of_settings_at_once(tmp_path, capsys):
    settings = ["--mu", "0.51", "0.6", "--methods", "grda", "--jobs", "2", "--tracker", "tensorboard"]
    assert main(["train", "digits", *QUICK, *settings]) == 0
    folder = tmp_path / "runs" / "digits-epochs2"
    assert {path.parent.name for path in folder.glob("*/result.json")} == {
        "grda-c0.01-mu0.51-seed0",
        "grda-c0.01-mu0.6-seed0",
    }
    assert "2 of 2 runs are over" in capsys.readouterr().out
    for run in find_runs(folder):
        events = EventAccumulator(str(run.path / "tensorboard")).Reload()
        shown = [event.value for event in events.Scalars("sparsity/total")]
        assert shown == pytest.approx([record["sparsity"] for record in run.metrics()])


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (errno.ENOSPC, 1, "no space left"),
        (errno.EDQUOT, 1, "no space left"),
        (errno.EACCES, 2, "choose a folder that you may read and write"),
        (errno.EROFS, 2, "choose a folder that you may read and write"),
        (errno.EIO, 1, "Input/output error"),
    ],
)
def test_system_errors(number, code, message, capsys, monkeypatch):
    def fail(given):
        raise OSError(number, os.strerror(number), "runs/x")

    monkeypatch.setattr("dirprune.cli._dispatch", fail)
    assert main(["train", "digits"]) == code
    assert message in capsys.readouterr().err
