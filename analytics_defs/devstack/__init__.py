"""Servers for development and tests: real ones started natively, and an embedded stack for `make dev`.

Nothing in this package runs in production. `python -m analytics_defs.devstack --help` lists the commands.
"""
