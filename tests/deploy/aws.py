"""DynamoDB and S3 on an embedded server that records the IAM rights of each request, and a parser of IAM policies."""

from __future__ import annotations

import json
import logging
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from analytics_defs.devstack.moto_patches import patch_transactions, serialize_requests
from analytics_defs.devstack.tcp_ports import LOOPBACK

BUCKET = "event-archive"
"""The default name of the bucket, which the policies contain. An operator with another bucket replaces it there."""
Right = tuple[str, str]
"""An action and its resource: a table, `bucket`, or a folder of the bucket."""

_BY_METHOD = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "POST": "s3:PutObject", "DELETE": "s3:DeleteObject"}


def of_dynamodb(operation: str, body: dict[str, Any]) -> set[Right]:
    """Return the rights of a request. A transaction needs only those of its actions (AWS, "Using IAM with DynamoDB transactions")."""
    if operation in ("TransactWriteItems", "TransactGetItems"):
        actions = [(kind, action["TableName"]) for item in body["TransactItems"] for kind, action in item.items()]
        return {(f"dynamodb:{kind}Item", table) for kind, table in actions}
    tables = body["RequestItems"] if "RequestItems" in body else [body["TableName"]]
    return {(f"dynamodb:{operation}", table) for table in tables}


def of_s3(method: str, path: str, query: str, body: bytes) -> set[Right]:
    """Return the rights of a request that is addressed by path, as all clients address a custom endpoint."""
    _, _, key = unquote(path).strip("/").partition("/")
    parameters = parse_qs(query, keep_blank_values=True)
    if not key:
        if method == "POST" and "delete" in parameters:
            keys = [element.text or "" for element in ET.fromstring(body).iter() if element.tag.endswith("Key")]  # noqa: S314 - our request
            return {("s3:DeleteObject", _folder(key)) for key in keys}
        return {("s3:CreateBucket" if method == "PUT" else "s3:ListBucket", "bucket")}
    if method == "DELETE" and "uploadId" in parameters:
        return {("s3:AbortMultipartUpload", _folder(key))}
    return {(_BY_METHOD[method], _folder(key))}


def _folder(key: str) -> str:
    return f"{key.partition('/')[0]}/"


@dataclass
class Cloud:
    """The embedded server and what it recorded. Thread-safe, because moto handles one request at a time."""

    endpoint: str = ""
    rights: set[Right] = field(default_factory=set)
    """Rights that the requests needed."""
    called: set[str] = field(default_factory=set)
    """Called methods of ports, such as `ledger.begin_batch`. Filled by `RecordedStore`."""
    refuse: Callable[[str, str], bool] = lambda *_: False
    """Called with method and query of each request. True: the request is answered with 400."""

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Do not record requests and calls within the block. They are made for another role."""
        before, self.rights, self.called = (self.rights, self.called), set(), set()
        try:
            yield
        finally:
            self.rights, self.called = before

    def app(self, app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        def recording(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = BytesIO(body)
            target, query = environ.get("HTTP_X_AMZ_TARGET", ""), environ["QUERY_STRING"]
            if target.startswith("DynamoDB_"):
                self.rights.update(of_dynamodb(target.rpartition(".")[2], json.loads(body)))
            else:
                self.rights.update(of_s3(environ["REQUEST_METHOD"], environ["PATH_INFO"], query, body))
            if self.refuse(environ["REQUEST_METHOD"], query):
                start_response("400 Bad Request", [("Content-Length", "0")])
                return []
            return app(environ, start_response)

        return recording


@contextmanager
def started_cloud() -> Iterator[Cloud]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    patch_transactions()
    moto_api_backend.reset()  # moto keeps its state in global variables
    cloud = Cloud()
    app = serialize_requests(cloud.app(DomainDispatcherApplication(create_backend_app)))
    server = make_server(LOOPBACK, 0, app, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    cloud.endpoint = f"http://{LOOPBACK}:{server.server_port}"
    try:
        yield cloud
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def allowed_rights(policy: Path) -> set[Right]:
    """Return all rights that the policy allows. Raise ValueError for conditions, wildcards and other services."""
    allowed = set[Right]()
    for statement in json.loads(policy.read_text(encoding="utf-8"))["Statement"]:
        if statement.keys() - {"Sid", "Effect", "Action", "Resource"} or statement["Effect"] != "Allow":
            raise ValueError(f"{policy.name}: {statement['Sid']} is more than actions allowed on resources")
        allowed |= {(action, _resource_name(resource)) for action in statement["Action"] for resource in statement["Resource"]}
    if wildcards := [action for action, _ in allowed if "*" in action]:
        raise ValueError(f"{policy.name}: {wildcards} are wildcards")
    return allowed


def _resource_name(resource: str) -> str:
    if resource == f"arn:aws:s3:::{BUCKET}":
        return "bucket"
    for start, end in ((f"arn:aws:s3:::{BUCKET}/", "*"), ("arn:aws:dynamodb:REGION:ACCOUNT_ID:table/", "")):
        name = resource.removeprefix(start).removesuffix(end)
        if name and resource == start + name + end and "*" not in name:
            return name
    raise ValueError(f"{resource} is neither a table, the bucket, nor a folder of it")
