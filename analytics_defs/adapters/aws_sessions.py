"""Sessions of the AWS SDK: the user's own for AWS, an isolated one for another endpoint. boto3 is imported on use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from analytics_defs.errors import SettingsError

if TYPE_CHECKING:
    import boto3


def user_session(region: str | None = None) -> boto3.Session:
    """Return a session with the SDK's own chain: variables, profiles, web identity, containers, instances."""
    import boto3

    return boto3.Session(region_name=region)


def isolated_session() -> boto3.Session:
    """Return a session that reads neither AWS files nor AWS variables, except AWS_CA_BUNDLE.

    A profile or an odd value that is meant for AWS must not stop a platform that does not use AWS.
    """
    import boto3
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES
    from botocore.session import Session

    variables = {
        name: (None, None, default, convert)
        for name, (_, _, default, convert) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()
        if name != "ca_bundle"
    }
    no_files = dict.fromkeys(("config_file", "credentials_file"), (None, None, os.devnull, None))
    return boto3.Session(botocore_session=Session(session_vars=variables | no_files))


@contextmanager
def sdk_configuration(client: str) -> Iterator[None]:
    """Raise an error of the SDK's own configuration as SettingsError. Surrounds the creation of a client, which sends no request."""
    from botocore.exceptions import BotoCoreError, NoRegionError

    try:
        yield
    except NoRegionError as error:
        raise SettingsError(
            f"AWS region of {client}: not set, expected for example AWS_DEFAULT_REGION=eu-central-1 if no endpoint is set"
        ) from error
    except (BotoCoreError, ValueError) as error:
        message = " ".join(str(error).split()).rstrip(".")
        raise SettingsError(
            f"AWS configuration for {client}: {message}. Correct the AWS_* variable or the file under ~/.aws, or remove it."
        ) from error
