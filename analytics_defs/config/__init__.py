"""All settings, and the only place that reads the environment."""

from analytics_defs.config.environment import (
    anything_goes_at_load,
    archive_start_at_load,
    has_dagster_instance,
    health_in_dagster_at_load,
    load_settings,
    topics_at_load,
)
from analytics_defs.config.settings import LOCAL_KEY, LOCAL_REGION, Settings
from analytics_defs.config.settings_table import names, table

__all__ = [
    "LOCAL_KEY",
    "LOCAL_REGION",
    "Settings",
    "anything_goes_at_load",
    "archive_start_at_load",
    "has_dagster_instance",
    "health_in_dagster_at_load",
    "load_settings",
    "names",
    "table",
    "topics_at_load",
]
