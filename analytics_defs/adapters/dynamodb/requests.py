"""DynamoDB as the adapters use it: requests, queries, transactions; one way of repeating, one way of failing.

| repeated by                            | what                                                                            |
|----------------------------------------|---------------------------------------------------------------------------------|
| botocore, `DynamoConfig.attempts`      | no answer, timeouts, 5xx, throttling of a request                               |
| here, `DynamoConfig.conflict_attempts` | conflicts between transactions, throttled actions of one, keys left unprocessed |

Both are bounded and wait with full jitter. A transaction is repeated under its own token: where it was done and only its answer was lost,
DynamoDB does not do it again.
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
    error_code,
    translate_client_errors,
    translate_dynamodb_error,
)
from analytics_defs.errors import AnalyticsError, Unavailable

MAX_KEYS = 100
"""Of one `BatchGetItem` (AWS, "Quotas in Amazon DynamoDB")."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 2.0
_CONDITION = "ConditionalCheckFailed"
_OF_THE_MOMENT = frozenset({"None", "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})

_T = TypeVar("_T")


class _Again(Exception):
    """Refused for the moment; `fault` is raised when patience ends."""

    def __init__(self, fault: AnalyticsError) -> None:
        super().__init__(str(fault))
        self.fault = fault


class DynamoClient:
    """Thread-safe. Connects on first use.

    Every method raises Unavailable (whether the request took effect is unknown), Denied, Missing, or `Refused` for a request that is wrong.
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
        """End the connections; the next use makes new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def call(self, operation: str, tables: Sequence[str], /, **params: Any) -> dict[str, Any]:
        """One request. `operation` is a method of the client, `tables` are for messages only."""
        request = self._request(operation, tables)
        try:
            return self._answer(request, operation, params)
        except translate_client_errors() as error:
            raise translate_dynamodb_error(error, request) from error

    def get(self, table: str, key: Item) -> Item | None:
        item: Item | None = self.call("get_item", [table], TableName=table, Key=key, ConsistentRead=True).get("Item")
        return item

    def get_many(self, table: str, keys: Sequence[Item]) -> list[Item]:
        """The items that are there, in any order. Keys are distinct."""
        chunks = (keys[start : start + MAX_KEYS] for start in range(0, len(keys), MAX_KEYS))
        return [item for chunk in chunks for item in self._get_chunk(table, chunk)]

    def query(
        self, table: str, condition: str, values: Mapping[str, str], *, limit: int | None = None, descending: bool = False
    ) -> Iterator[Item]:
        """Items of one `pk` in the order of `sk`, page by page, at most `limit`. `values` are strings, by placeholder."""
        params: dict[str, Any] = {
            "TableName": table,
            "KeyConditionExpression": condition,
            "ExpressionAttributeValues": {name: {"S": value} for name, value in values.items()},
            "ConsistentRead": True,
            "ScanIndexForward": not descending,
        }
        left = limit
        while left is None or left > 0:
            page = self.call("query", [table], **params, **({} if left is None else {"Limit": left}))
            yield from page["Items"]
            left = None if left is None else left - len(page["Items"])
            if "LastEvaluatedKey" not in page:
                return
            params["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def put(self, table: str, item: Item) -> None:
        """Write over whatever is there."""
        self.call("put_item", [table], TableName=table, Item=item)

    def delete(self, table: str, key: Item) -> None:
        self.call("delete_item", [table], TableName=table, Key=key)

    def transact(self, actions: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[int, Item]:
        """All actions, or none. An empty answer: all are done.

        Otherwise nothing is, and the answer has the position of each action whose condition did not hold, with the item that it met
        where it asks for `ALL_OLD` and there is one.
        """
        request = self._request("transact_write_items", sorted({each["TableName"] for action in actions for each in action.values()}))
        params = {"TransactItems": actions, "ClientRequestToken": uuid.uuid4().hex}

        def attempt() -> dict[int, Item]:
            try:
                self._answer(request, "transact_write_items", params)
            except translate_client_errors() as error:
                return _refusals(error, request)
            return {}

        return self._patiently(attempt)

    def get_atomically(self, table: str, keys: Sequence[Item]) -> list[Item | None]:
        """The items of these keys, in their order, at one moment: all of a transaction or nothing. Distinct, at most 100 (moto: 25)."""
        request = self._request("transact_get_items", [table])
        params = {"TransactItems": [{"Get": {"TableName": table, "Key": key}} for key in keys]}

        def attempt() -> list[Item | None]:
            try:
                answer = self._answer(request, "transact_get_items", params)
            except translate_client_errors() as error:
                _refusals(error, request)
                raise translate_dynamodb_error(error, request) from error
            return [each.get("Item") for each in answer["Responses"]]

        return self._patiently(attempt)

    def _get_chunk(self, table: str, keys: Sequence[Item]) -> list[Item]:
        request = self._request("batch_get_item", [table])
        found: list[Item] = []
        left: dict[str, Any] = {table: {"Keys": keys, "ConsistentRead": True}}

        def attempt() -> None:
            nonlocal left
            while left:
                page = self.call("batch_get_item", [table], RequestItems=left)
                items, left = page["Responses"].get(table, []), page.get("UnprocessedKeys", {})
                found.extend(items)
                if left and not items:
                    raise _Again(Unavailable(f"{request}: DynamoDB leaves all keys unprocessed, it is throttling"))

        self._patiently(attempt)
        return found

    def _patiently(self, attempt: Callable[[], _T]) -> _T:
        repeats = Retrying(
            stop=stop_after_attempt(self.config.conflict_attempts),
            wait=wait_random_exponential(multiplier=_FIRST_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS),
            retry=retry_if_exception_type(_Again),
            sleep=self.sleep,
            reraise=True,
        )
        try:
            return repeats(attempt)
        except _Again as impatience:
            raise impatience.fault from impatience.__cause__

    def _answer(self, request: RequestContext, operation: str, params: Mapping[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self._connected(), operation)(**params)
        if "RequestId" not in answer.get("ResponseMetadata", {}):
            # Something that is not DynamoDB answered 200; botocore reads that as "done" and as "no such item".
            raise Unavailable(f"{request}: the answer is not DynamoDB's: it has no request id. Is it DynamoDB that listens there?")
        return answer

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._connect(self.config)
            return self._client

    def _request(self, operation: str, tables: Sequence[str]) -> RequestContext:
        return RequestContext(operation.title().replace("_", ""), tables, self.config.describe_endpoint)


def _refusals(error: Exception, request: RequestContext) -> dict[int, Item]:
    """Positions and items of the actions whose conditions did not hold. Raises whatever else it was."""
    code, fault = error_code(error), translate_dynamodb_error(error, request)
    if code in ("TransactionConflictException", "TransactionInProgressException"):
        raise _Again(fault) from error
    if code != "TransactionCanceledException":
        raise fault from error
    reasons: list[dict[str, Any]] = getattr(error, "response", {}).get("CancellationReasons", [])
    refused = {position: reason.get("Item", {}) for position, reason in enumerate(reasons) if reason.get("Code") == _CONDITION}
    if refused:
        return refused
    wrong = {position: reason for position, reason in enumerate(reasons) if reason.get("Code", "None") not in _OF_THE_MOMENT}
    if not wrong:
        raise _Again(fault) from error
    said = ", ".join(f"{reason['Code']}: {reason.get('Message')}" for reason in list(wrong.values())[:3])
    raise RequestRejected(f"{request}: DynamoDB refuses {len(wrong)} of {len(reasons)} actions: {said}", frozenset(wrong)) from error
