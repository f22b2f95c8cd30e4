"""`dirprune bench step`: a table for the eye, JSON for the record, one line for a mistake."""

import json

import pytest

from dirprune.bench import OPTIMISERS, TrainingTable
from dirprune.bench.interleave import Timing
from dirprune.cli import main


@pytest.mark.parametrize(
    ("arguments", "tensors", "parameters"),
    [(["--model", "lenet-300-100"], 6, 266_610), (["--parameters", "2000001"], 3, 2_000_001)],
)
def test_step(arguments, tensors, parameters, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    path = tmp_path / "step.json"
    assert main(["bench", "step", *arguments, "--repetitions", "3", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert f"{parameters:,} parameters of float32 in {tensors} tensors" in printed
    assert all(name in printed for name in OPTIMISERS)
    content = json.loads(path.read_text())
    assert (content["tensors"], content["parameters"]) == (tensors, parameters)
    assert content["times"].keys() == OPTIMISERS.keys()
    assert content["times"]["gRDA"]["repetitions"] == 3
    assert content["environment"]["command"].startswith("dirprune bench step")


def test_help(capsys):
    assert main(["bench", "--help"]) == 0
    assert "step" in capsys.readouterr().out
    assert main(["bench"]) == 2
    with pytest.raises(SystemExit) as ended:
        main(["bench", "step", "--help"])
    assert ended.value.code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stepp"], "did you mean 'step'?"),
        (["step", "--model", "resnet5"], "unknown network 'resnet5'"),
        (["step", "--parameters", "0"], "--parameters must be >= 1"),
        (["step", "--threads", "0"], "--threads must be >= 1"),
        (["step", "--repetitions", "1", "--parameters", "9"], "repetitions must be >= 2, got 1"),
        (["step", "--dtype", "int8"], "invalid choice"),
        (["step", "--device", "nowhere"], "--device nowhere cannot be used"),
        (["step", "--device", "meta"], "--device meta cannot be used: nothing is computed there"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_train_says_what_pays_and_writes_it(tmp_path, capsys):
    arguments = ["bench", "train", "digits", "--ways", "bf16", "--repetitions", "2"]
    assert main([*arguments, "--json", str(tmp_path / "table.json")]) == 0
    shown = capsys.readouterr().out
    assert "x float32" in shown
    content = json.loads((tmp_path / "table.json").read_text())
    pays = content["ratios"]["bf16"] <= 0.95
    assert ("dirprune train digits --precision bf16" in shown) == pays
    assert ("fastest without any of these options" in shown) != pays
    assert content["ratios"]["float32"] == 1
    assert content["environment"]["command"].startswith("dirprune bench train digits")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_every_dtype_that_is_offered_is_timed(dtype, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    assert main(["bench", "step", "--parameters", "1000", "--repetitions", "2", "--dtype", dtype]) == 0
    assert ("bfloat16 accumulator" in capsys.readouterr().out) == (dtype != "float64")


CHANNELS = "fastest for this recipe: dirprune train digits --channels-last"


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ({"channels_last": 0.9, "compiled, channels_last": 0.5}, [CHANNELS, "compiled, channels_last is"]),
        ({"channels_last": 0.97, "compiled": 0.6}, ["without any of these", "compiled is faster still"]),
        ({"channels_last": 0.5, "compiled": 0.6}, [CHANNELS]),
    ],
)
def test_train_names_the_fastest_way_whether_or_not_the_command_has_it(times, said, monkeypatch, capsys):
    table = TrainingTable(
        8, "cpu", 1, {name: Timing(time, 0, 0, 2) for name, time in {"float32": 1.0, **times}.items()}, {}
    )
    monkeypatch.setattr("dirprune.cli.bench.measure_training", lambda *_, **__: table)
    assert main(["bench", "train", "digits"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(words in shown for words in said)
    assert ("torch.compile" in shown) == (len(said) > 1)


def test_train_names_what_is_unknown(capsys):
    assert main(["bench", "train", "digits", "--ways", "bf61"]) == 2
    assert "did you mean 'bf16'" in capsys.readouterr().err
