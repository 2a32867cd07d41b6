"""What a developer's machine needs around the platform: real servers started natively, and an embedded stack for `make dev`.

Nothing here runs in production. `python -m analytics_defs.devstack --help` lists the commands.
"""
