import os
import signal
import threading

import pytest

from tff_leak.runtime import signals


def test_sigterm_becomes_system_exit_and_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    steps = []
    with pytest.raises(SystemExit) as caught, signals.ends_cleanly():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append("not reached")
        finally:
            # A second one must not cut the cleaning up short.
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append("cleaned up")
    assert caught.value.code == 143
    assert steps == ["cleaned up"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_only_in_the_main_thread():
    caught = []

    def enter():
        try:
            with signals.ends_cleanly():
                pass
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert caught == ["ends_cleanly() can only be used in the main thread."]
