"""DynamoDB and S3 on one embedded server that writes down which IAM actions its requests need, and policies read as what they allow."""

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
"""Its default name, as the policies have it: whoever calls it otherwise replaces it there."""
Right = tuple[str, str]
"""An action, and the table, `bucket`, or the folder of the bucket that it is allowed on."""

_BY_METHOD = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "POST": "s3:PutObject", "DELETE": "s3:DeleteObject"}


def of_dynamodb(operation: str, body: dict[str, Any]) -> set[Right]:
    """Transactions need the rights of their parts, and no other (AWS, "Using IAM with DynamoDB transactions")."""
    if operation in ("TransactWriteItems", "TransactGetItems"):
        parts = [(kind, each["TableName"]) for item in body["TransactItems"] for kind, each in item.items()]
        return {(f"dynamodb:{kind}Item", table) for kind, table in parts}
    tables = body["RequestItems"] if "RequestItems" in body else [body["TableName"]]
    return {(f"dynamodb:{operation}", table) for table in tables}


def of_s3(method: str, path: str, query: str, body: bytes) -> set[Right]:
    """By path, as every client here addresses an endpoint of one's own."""
    _, _, key = unquote(path).strip("/").partition("/")
    asked = parse_qs(query, keep_blank_values=True)
    if not key:
        if method == "POST" and "delete" in asked:
            keys = [each.text or "" for each in ET.fromstring(body).iter() if each.tag.endswith("Key")]  # noqa: S314 - our own request
            return {("s3:DeleteObject", _folder(each)) for each in keys}
        return {("s3:CreateBucket" if method == "PUT" else "s3:ListBucket", "bucket")}
    if method == "DELETE" and "uploadId" in asked:
        return {("s3:AbortMultipartUpload", _folder(key))}
    return {(_BY_METHOD[method], _folder(key))}


def _folder(key: str) -> str:
    return f"{key.partition('/')[0]}/"


@dataclass
class Cloud:
    """Thread-safe as far as moto is: one request at a time."""

    endpoint: str = ""
    seen: set[Right] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    """Methods of the ports, as `ledger.take`: filled by whoever makes the ports."""
    refuse: Callable[[str, str], bool] = lambda *_: False
    """Requests that get a 400 instead of an answer, by method and query."""

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is asked for within the block is somebody else's doing, and not written down."""
        before, self.seen, self.called = (self.seen, self.called), set(), set()
        try:
            yield
        finally:
            self.seen, self.called = before

    def app(self, app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        def recording(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = BytesIO(body)
            target, query = environ.get("HTTP_X_AMZ_TARGET", ""), environ["QUERY_STRING"]
            if target.startswith("DynamoDB_"):
                self.seen.update(of_dynamodb(target.rpartition(".")[2], json.loads(body)))
            else:
                self.seen.update(of_s3(environ["REQUEST_METHOD"], environ["PATH_INFO"], query, body))
            if self.refuse(environ["REQUEST_METHOD"], query):
                start_response("400 Bad Request", [("Content-Length", "0")])
                return []
            return app(environ, start_response)

        return recording


@contextmanager
def cloud() -> Iterator[Cloud]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    patch_transactions()
    moto_api_backend.reset()  # its stores are the process's
    found = Cloud()
    app = serialize_requests(found.app(DomainDispatcherApplication(create_backend_app)))
    server = make_server(LOOPBACK, 0, app, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    found.endpoint = f"http://{LOOPBACK}:{server.server_port}"
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def rights(policy: Path) -> set[Right]:
    """All that a policy of ours allows. Raises ValueError on what it does not know: conditions, wildcards, other services."""
    found = set[Right]()
    for statement in json.loads(policy.read_text(encoding="utf-8"))["Statement"]:
        if statement.keys() - {"Sid", "Effect", "Action", "Resource"} or statement["Effect"] != "Allow":
            raise ValueError(f"{policy.name}: {statement['Sid']} is more than actions allowed on resources")
        found |= {(action, _place(resource)) for action in statement["Action"] for resource in statement["Resource"]}
    if wild := [action for action, _ in found if "*" in action]:
        raise ValueError(f"{policy.name}: {wild} are wildcards")
    return found


def _place(resource: str) -> str:
    if resource == f"arn:aws:s3:::{BUCKET}":
        return "bucket"
    for start, end in ((f"arn:aws:s3:::{BUCKET}/", "*"), ("arn:aws:dynamodb:REGION:ACCOUNT_ID:table/", "")):
        place = resource.removeprefix(start).removesuffix(end)
        if place and resource == start + place + end and "*" not in place:
            return place
    raise ValueError(f"{resource} is neither a table, the bucket, nor a folder of it")
