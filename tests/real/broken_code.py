"""The definitions. Importing them fails with a missing library if WITHOUT_A_LIBRARY is set."""

from __future__ import annotations

import os

if os.environ.get("WITHOUT_A_LIBRARY"):
    raise ModuleNotFoundError("No module named 'a_library'")

from analytics_defs.definitions import defs

__all__ = ["defs"]
