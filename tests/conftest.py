"""Configuration of all tests."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with SIGINT ignored. Dagster copies that handler to SIGTERM, so its child processes could not be
    # terminated.
    signal.signal(signal.SIGINT, signal.default_int_handler)
