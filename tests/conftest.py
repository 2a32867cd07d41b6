"""What holds for every test."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs so, and Dagster copies what SIGINT does to SIGTERM: the helpers of its runs could not be ended.
    signal.signal(signal.SIGINT, signal.default_int_handler)
