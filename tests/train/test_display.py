"""What a log and a terminal show of a set of runs."""

import io

from rich.console import Console

from dirprune.train import Outcome, ProgressDisplay


def events(name, epochs=2, first=0):
    yield {"run": name, "kind": "start", "step": first, "steps": 10 * epochs, "epoch": 1, "epochs": epochs}
    yield {"run": name, "kind": "step", "step": 5}
    for epoch in range(1, epochs + 1):
        metrics = {
            "epoch": epoch,
            "step": 10 * epoch,
            "train_loss": 0.5,
            "test_accuracy": 0.9,
            "sparsity": 0.25,
        }
        yield {"run": name, "kind": "epoch", "metrics": metrics}


def shown(runs, ends, epochs=2, first=0, **options):
    file = io.StringIO()
    with ProgressDisplay(Console(file=file, width=120, **options), runs) as display:
        for name, end in ends.items():
            for event in events(name, epochs, first):
                display.show(event)
            if end is not None:
                display.end(end)
    return file.getvalue()


def test_a_log_has_a_line_for_each_epoch_and_says_how_far_the_set_is():
    text = shown(2, {"a": Outcome("a", "finished"), "b": Outcome("b", "failed", "lost")})
    assert "a: epoch 1/2  loss 0.5000  accuracy 90.00 %  sparsity 25.00 %\n" in text
    assert "b: failed: lost\n" in text
    assert "2 of 2 runs are over" in text


def test_a_run_of_another_process_is_not_counted_as_over():
    ends = {"a": Outcome("a", "busy", "in use"), "b": Outcome("b", "finished"), "c": None}
    assert "1 of 3 runs are over, 1 left to another process" in shown(3, ends)


def test_a_log_of_long_runs_and_large_sets_stays_short():
    assert shown(1, {"a": None}, epochs=200).count("\n") == 20
    assert shown(30, {"a": None}, epochs=200).count("\n") == 2


def test_a_resumed_run_says_where():
    assert "a: goes on at epoch 1, step 7" in shown(1, {"a": None}, first=7)


def test_a_terminal_shows_every_run_at_work_and_the_whole_set():
    text = shown(3, {"a": None, "b": None}, force_terminal=True)
    assert all(part in text for part in ("[1/3] a", "[2/3] b", "all runs", "67%"))
    assert "all runs" not in shown(1, {"a": None}, force_terminal=True)


def test_a_run_left_to_another_process_is_a_notice():
    file = io.StringIO()
    ProgressDisplay(Console(file=file, width=120), 2).end(Outcome("a", "busy", "in use"))
    assert file.getvalue() == "a: left to another process (in use)\n"
