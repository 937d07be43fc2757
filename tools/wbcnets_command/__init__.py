"""The console script ``wbcnets``.

It stands outside the package, whose import takes seconds: Ctrl-C must end them, too, without a
traceback, and no file that a library opens then may take the number of a closed standard stream.
"""

import os
import signal


def main() -> int:
    """Runs ``wbcnets``; returns its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    while os.open(os.devnull, os.O_RDWR) <= 2:
        pass  # one of the three standard streams was closed, and now leads to nowhere
    from wbcnets.cli.main import main as run

    return run()
