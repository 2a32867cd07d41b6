"""All settings. Only this package reads the environment."""

from analytics_defs.config.environment import (
    has_dagster_instance,
    is_retention_enabled_at_load,
    load_settings,
    partitions_start_at_load,
    run_health_in_dagster_at_load,
    topics_at_load,
)
from analytics_defs.config.settings import LOCAL_KEY, LOCAL_REGION, Settings
from analytics_defs.config.settings_table import setting_names, settings_table

__all__ = [
    "LOCAL_KEY",
    "LOCAL_REGION",
    "Settings",
    "has_dagster_instance",
    "is_retention_enabled_at_load",
    "load_settings",
    "partitions_start_at_load",
    "run_health_in_dagster_at_load",
    "setting_names",
    "settings_table",
    "topics_at_load",
]
