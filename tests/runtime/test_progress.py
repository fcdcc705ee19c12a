import io

from tff_leak.runtime.progress import Progress


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_silent_when_not_a_terminal(capsys):
    stream = io.StringIO()
    with Progress(2, "run", stream=stream) as progress:
        progress.start()
        progress.update(1, {"attack/task_accuracy": 0.5})
    with Progress(2, "run") as progress:  # Under pytest stderr is no terminal.
        progress.update(1, {})
    assert stream.getvalue() == ""
    assert capsys.readouterr() == ("", "")


def test_draws_rounds_and_the_first_arms_metrics():
    stream = _Terminal()
    metrics = {
        "attack/attack_loss": 1.23456,
        "attack/task_accuracy": 0.5,
        "control/task_accuracy": 0.25,
        "attack/other": 9.0,
    }
    with Progress(4, "hitaj", stream=stream) as progress:
        progress.start()
        progress.update(1, metrics)
        progress.update(2, metrics)
    last = stream.getvalue().rstrip("\n").rpartition("\r")[2]
    assert last.startswith("hitaj:  50%")
    assert "2/4" in last
    assert "task accuracy=0.500, attack loss=1.235" in last
    assert stream.getvalue().endswith("\n")


def test_starts_at_the_resumed_round():
    stream = _Terminal()
    with Progress(10, "run", stream=stream) as progress:
        progress.start(6)
        assert "6/10" in stream.getvalue()
        progress.update(7, {})
    assert "7/10" in stream.getvalue().rpartition("\r")[2]


def test_enabled_overrides_the_terminal():
    stream, terminal = io.StringIO(), _Terminal()
    with Progress(1, "run", enabled=True, stream=stream) as progress:
        progress.update(1, {})
    with Progress(1, "run", enabled=False, stream=terminal) as progress:
        progress.update(1, {})
    assert "1/1" in stream.getvalue()
    assert terminal.getvalue() == ""


def test_nothing_is_drawn_after_close():
    stream = _Terminal()
    progress = Progress(2, "run", stream=stream)
    progress.update(1, {})
    progress.close()
    drawn = stream.getvalue()
    progress.update(2, {})
    progress.close()
    assert stream.getvalue() == drawn


def test_counts_something_else_than_rounds():
    stream = _Terminal()
    with Progress(5, "matrix", shown=("failed",), unit="run", stream=stream) as bar:
        bar.start()
        bar.update(2, {"failed": 1})
    last = stream.getvalue().rstrip("\n").rpartition("\r")[2]
    assert "2/5" in last and "run" in last and "failed=1]" in last
