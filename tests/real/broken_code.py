"""The definitions, in a process whose installation lacks something when its environment says so."""

from __future__ import annotations

import os

if os.environ.get("WITHOUT_A_LIBRARY"):
    raise ModuleNotFoundError("No module named 'a_library'")

from analytics_defs.definitions import defs

__all__ = ["defs"]
