"""DynamoDB requests, queries and transactions, with one retry policy and one error translation.

| retried by                             | what                                                                            |
|----------------------------------------|---------------------------------------------------------------------------------|
| botocore, `DynamoConfig.attempts`      | no answer, timeouts, 5xx, throttling of a request                               |
| here, `DynamoConfig.conflict_attempts` | conflicts between transactions, throttled actions of one, keys left unprocessed |

Both are bounded and wait with full jitter. A transaction is retried with the same token. If it took effect and only its answer was
lost, DynamoDB does not execute it again.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from analytics_defs.adapters.dynamodb.attribute_values import Item
from analytics_defs.adapters.dynamodb.client import DynamoConfig, connect_dynamodb
from analytics_defs.adapters.dynamodb.errors import (
    RequestContext,
    RequestRejected,
    client_error_types,
    error_code,
    translate_dynamodb_error,
)
from analytics_defs.errors import AnalyticsError, Unavailable

MAX_KEYS = 100
"""Keys of one `BatchGetItem` (AWS, "Quotas in Amazon DynamoDB")."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 2.0
_CONDITION_FAILED = "ConditionalCheckFailed"
_TEMPORARY = frozenset({"None", "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})

_T = TypeVar("_T")


class _Retry(Exception):
    """A temporary refusal. `error` is raised when the attempts are used up."""

    def __init__(self, error: AnalyticsError) -> None:
        super().__init__(str(error))
        self.error = error


class DynamoClient:
    """A thread-safe client that connects on first use.

    Every method raises Unavailable (it is unknown whether the request took effect), AccessDenied, ResourceNotReady, or RequestRejected for
    an invalid request.
    """

    def __init__(
        self, config: DynamoConfig, connect: Callable[[DynamoConfig], Any] = connect_dynamodb, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.config = config
        self.sleep = sleep
        self._connect = connect
        self._client: Any = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections. The next use opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def call(self, operation: str, tables: Sequence[str], /, **params: Any) -> dict[str, Any]:
        """Send one request. `operation` is a method of the client; `tables` are for messages only."""
        request = self._request(operation, tables)
        try:
            return self._send(request, operation, params)
        except client_error_types() as error:
            raise translate_dynamodb_error(error, request) from error

    def get(self, table: str, key: Item) -> Item | None:
        item: Item | None = self.call("get_item", [table], TableName=table, Key=key, ConsistentRead=True).get("Item")
        return item

    def get_many(self, table: str, keys: Sequence[Item]) -> list[Item]:
        """Return the existing items of these distinct keys, in any order."""
        chunks = (keys[start : start + MAX_KEYS] for start in range(0, len(keys), MAX_KEYS))
        return [item for chunk in chunks for item in self._get_chunk(table, chunk)]

    def query(
        self, table: str, condition: str, values: Mapping[str, str], *, limit: int | None = None, descending: bool = False
    ) -> Iterator[Item]:
        """Yield items of one `pk` in the order of `sk`, page by page, at most `limit`. `values` are strings, by placeholder."""
        params: dict[str, Any] = {
            "TableName": table,
            "KeyConditionExpression": condition,
            "ExpressionAttributeValues": {name: {"S": value} for name, value in values.items()},
            "ConsistentRead": True,
            "ScanIndexForward": not descending,
        }
        items_left = limit
        while items_left is None or items_left > 0:
            page = self.call("query", [table], **params, **({} if items_left is None else {"Limit": items_left}))
            yield from page["Items"]
            items_left = None if items_left is None else items_left - len(page["Items"])
            if "LastEvaluatedKey" not in page:
                return
            params["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def put(self, table: str, item: Item) -> None:
        """Write the item, replacing an existing one."""
        self.call("put_item", [table], TableName=table, Item=item)

    def delete(self, table: str, key: Item) -> None:
        self.call("delete_item", [table], TableName=table, Key=key)

    def transact(self, actions: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[int, Item]:
        """Execute all actions or none. Return an empty mapping if all were executed.

        Otherwise nothing was changed. The mapping then has the position of each action whose condition did not hold, with the item that it
        found, if the action asks for `ALL_OLD` and the item exists.
        """
        request = self._request("transact_write_items", sorted({params["TableName"] for action in actions for params in action.values()}))
        params = {"TransactItems": actions, "ClientRequestToken": uuid.uuid4().hex}

        def attempt() -> dict[int, Item]:
            try:
                self._send(request, "transact_write_items", params)
            except client_error_types() as error:
                return _refused_actions(error, request)
            return {}

        return self._with_retries(attempt)

    def get_atomically(self, table: str, keys: Sequence[Item]) -> list[Item | None]:
        """Return the items of these distinct keys, in their order, as of one moment. At most 100 keys (moto: 25)."""
        request = self._request("transact_get_items", [table])
        params = {"TransactItems": [{"Get": {"TableName": table, "Key": key}} for key in keys]}

        def attempt() -> list[Item | None]:
            try:
                answer = self._send(request, "transact_get_items", params)
            except client_error_types() as error:
                _refused_actions(error, request)
                raise translate_dynamodb_error(error, request) from error
            return [response.get("Item") for response in answer["Responses"]]

        return self._with_retries(attempt)

    def _get_chunk(self, table: str, keys: Sequence[Item]) -> list[Item]:
        request = self._request("batch_get_item", [table])
        items: list[Item] = []
        keys_left: dict[str, Any] = {table: {"Keys": keys, "ConsistentRead": True}}

        def attempt() -> None:
            nonlocal keys_left
            while keys_left:
                page = self.call("batch_get_item", [table], RequestItems=keys_left)
                page_items, keys_left = page["Responses"].get(table, []), page.get("UnprocessedKeys", {})
                items.extend(page_items)
                if keys_left and not page_items:
                    raise _Retry(Unavailable(f"{request}: DynamoDB leaves all keys unprocessed because it is throttling"))

        self._with_retries(attempt)
        return items

    def _with_retries(self, attempt: Callable[[], _T]) -> _T:
        retrying = Retrying(
            stop=stop_after_attempt(self.config.conflict_attempts),
            wait=wait_random_exponential(multiplier=_FIRST_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS),
            retry=retry_if_exception_type(_Retry),
            sleep=self.sleep,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except _Retry as exhausted:
            raise exhausted.error from exhausted.__cause__

    def _send(self, request: RequestContext, operation: str, params: Mapping[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self._connected(), operation)(**params)
        if "RequestId" not in answer.get("ResponseMetadata", {}):
            # A server that is not DynamoDB answered 200. botocore reads that as success or as a missing item.
            raise Unavailable(f"{request}: the answer has no request id, so it is not DynamoDB's. Check that this endpoint is DynamoDB.")
        return answer

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._connect(self.config)
            return self._client

    def _request(self, operation: str, tables: Sequence[str]) -> RequestContext:
        return RequestContext(operation.title().replace("_", ""), tables, self.config.endpoint_description)


def _refused_actions(error: Exception, request: RequestContext) -> dict[int, Item]:
    """Return positions and items of the actions whose conditions did not hold. Raise an error for every other failure."""
    code, translated = error_code(error), translate_dynamodb_error(error, request)
    if code in ("TransactionConflictException", "TransactionInProgressException"):
        raise _Retry(translated) from error
    if code != "TransactionCanceledException":
        raise translated from error
    reasons: list[dict[str, Any]] = getattr(error, "response", {}).get("CancellationReasons", [])
    refused = {position: reason.get("Item", {}) for position, reason in enumerate(reasons) if reason.get("Code") == _CONDITION_FAILED}
    if refused:
        return refused
    rejected = {position: reason for position, reason in enumerate(reasons) if reason.get("Code", "None") not in _TEMPORARY}
    if not rejected:
        raise _Retry(translated) from error
    details = ", ".join(f"{reason['Code']}: {reason.get('Message')}" for reason in list(rejected.values())[:3])
    raise RequestRejected(
        f"{request}: DynamoDB rejects {len(rejected)} of {len(reasons)} actions: {details}", frozenset(rejected)
    ) from error
