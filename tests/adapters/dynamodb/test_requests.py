"""Tests of the retry policy and the error translation, observed at the HTTP level."""

from __future__ import annotations

import json
import socket
import time
from datetime import timedelta
from typing import Any

import pytest

from analytics_defs.adapters.dynamodb.client import DynamoConfig
from analytics_defs.adapters.dynamodb.errors import RequestRejected
from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.errors import AccessDenied, AnalyticsError, ResourceNotReady, SettingsError, Unavailable
from tests.adapters.dynamodb.scripted_dynamodb import DONE, SECRET, Answer, scripted

PUT = {"Put": {"TableName": "some-table", "Item": {"id": {"S": "a"}, "packed": {"B": b"\x00\xff"}, "Ü": {"S": "日本語\u2028"}}}}
CONFLICT = Answer.cancelled("None", "TransactionConflict")
STORED = {"id": {"S": "a"}, "source": {"S": "topic/0/1"}}


# Transactions.


def test_a_transaction_is_sent_as_built() -> None:
    with scripted(DONE) as server:
        assert server.dynamo.transact([PUT, PUT]) == {}
    (sent,) = server.transactions
    item = {"id": {"S": "a"}, "packed": {"B": "AP8="}, "Ü": {"S": "日本語\u2028"}}
    assert sent["TransactItems"] == [{"Put": {"TableName": "some-table", "Item": item}}] * 2
    assert sent["ClientRequestToken"]


def test_conflicts_and_throttled_actions_are_retried_with_the_same_token() -> None:
    throttled = Answer.cancelled("ThrottlingError", "ProvisionedThroughputExceeded")
    in_progress, conflict = (Answer.error(f"Transaction{what}Exception") for what in ("InProgress", "Conflict"))
    with scripted(CONFLICT, throttled, in_progress, conflict, DONE) as server:
        assert server.dynamo.transact([PUT, PUT]) == {}
    assert len(server.transactions) == 5
    assert all(sent == server.transactions[0] for sent in server.transactions)
    assert len(server.pauses) == 4
    assert all(0 <= pause <= 2 for pause in server.pauses)


def test_another_transaction_has_another_token() -> None:
    with scripted(DONE) as server:
        server.dynamo.transact([PUT])
        server.dynamo.transact([PUT])
    first, second = server.transactions
    assert first["ClientRequestToken"] != second["ClientRequestToken"]


def test_retries_of_conflicts_are_bounded() -> None:
    with (
        scripted(CONFLICT, conflict_attempts=4) as server,
        pytest.raises(Unavailable, match=r"TransactWriteItems on some-table at http.*Cancel"),
    ):
        server.dynamo.transact([PUT, PUT])
    assert (len(server.transactions), len(server.pauses)) == (4, 3)


def test_a_failed_condition_is_returned_and_not_retried() -> None:
    with scripted(Answer.cancelled("TransactionConflict", {"Code": "ConditionalCheckFailed", "Item": STORED}, "None")) as server:
        assert server.dynamo.transact([PUT, PUT, PUT]) == {1: STORED}
    assert len(server.transactions) == 1


def test_a_rejected_action_is_named_by_its_position() -> None:
    wrong = {"Code": "ValidationError", "Message": "Item size has exceeded"}
    with scripted(Answer.cancelled("None", wrong)) as server, pytest.raises(RequestRejected, match=r"1 of 2 actions.*Item size") as raised:
        server.dynamo.transact([PUT, PUT])
    assert raised.value.positions == {1}
    assert not raised.value.retryable


def test_an_atomic_read_is_retried_while_a_transaction_changes_its_items() -> None:
    keys = [{"id": {"S": key_id}} for key_id in "ab"]
    answer = Answer({"Responses": [{"Item": keys[0]}, {}]})
    with scripted(CONFLICT, Answer.error("TransactionInProgressException"), answer) as server:
        assert server.dynamo.get_atomically("t", keys) == [keys[0], None]
    sent = {"TransactItems": [{"Get": {"TableName": "t", "Key": key}} for key in keys]}
    assert server.requests == [("TransactGetItems", sent)] * 3
    assert len(server.pauses) == 2


def test_retries_of_an_atomic_read_are_bounded() -> None:
    with scripted(CONFLICT, conflict_attempts=3) as server, pytest.raises(Unavailable, match="TransactGetItems on t at http"):
        server.dynamo.get_atomically("t", [{"id": {"S": "a"}}])
    assert len(server.requests) == 3


# Requests.


def test_only_unprocessed_keys_are_requested_again() -> None:
    keys = [{"id": {"S": str(number)}} for number in range(3)]
    pages = [
        Answer({"Responses": {"t": keys[:1]}, "UnprocessedKeys": {"t": {"Keys": keys[1:], "ConsistentRead": True}}}),
        Answer({"Responses": {}, "UnprocessedKeys": {"t": {"Keys": keys[1:], "ConsistentRead": True}}}),
        Answer({"Responses": {"t": keys[1:]}, "UnprocessedKeys": {}}),
    ]
    with scripted(*pages) as server:
        assert server.dynamo.get_many("t", keys) == keys
    assert [[key["id"]["S"] for key in params["RequestItems"]["t"]["Keys"]] for _, params in server.requests] == [
        ["0", "1", "2"],
        ["1", "2"],
        ["1", "2"],
    ]
    assert len(server.pauses) == 1


def test_keys_that_stay_unprocessed_raise_unavailable() -> None:
    stuck = Answer({"Responses": {}, "UnprocessedKeys": {"t": {"Keys": [{"id": {"S": "a"}}]}}})
    with scripted(stuck, conflict_attempts=3) as server, pytest.raises(Unavailable, match=r"BatchGetItem on t at .*throttling"):
        server.dynamo.get_many("t", [{"id": {"S": "a"}}])
    assert len(server.requests) == 3


def test_more_keys_than_one_request_holds_are_read_in_chunks() -> None:
    def echo(params: dict[str, Any]) -> Answer:
        return Answer({"Responses": {"t": params["RequestItems"]["t"]["Keys"]}})

    keys = [{"id": {"S": str(number)}} for number in range(201)]
    with scripted(script=echo) as server:
        assert server.dynamo.get_many("t", keys) == keys
    assert [len(params["RequestItems"]["t"]["Keys"]) for _, params in server.requests] == [100, 100, 1]


def test_a_query_reads_every_page_including_empty_ones() -> None:
    next_page = {"LastEvaluatedKey": {"pk": {"S": "p"}}}
    pages = [Answer({"Items": [STORED]} | next_page), Answer({"Items": []} | next_page), Answer({"Items": [STORED, STORED]})]
    with scripted(*pages) as server:
        assert list(server.dynamo.query("t", "pk = :pk", {":pk": "p"})) == [STORED] * 3
    assert [params.get("ExclusiveStartKey") for _, params in server.requests] == [None, {"pk": {"S": "p"}}, {"pk": {"S": "p"}}]
    assert all(params["ConsistentRead"] for _, params in server.requests)


def test_a_query_with_a_limit_stops_there() -> None:
    with scripted(Answer({"Items": [STORED, STORED], "LastEvaluatedKey": {"pk": {"S": "p"}}})) as server:
        assert len(list(server.dynamo.query("t", "pk = :pk", {":pk": "p"}, limit=4, descending=True))) == 4
    assert [(params["Limit"], params["ScanIndexForward"]) for _, params in server.requests] == [(4, False), (2, False)]


# Errors.


ERRORS: dict[str, tuple[Answer, type[AnalyticsError]]] = {
    "no permission": (Answer.error("AccessDeniedException", "User: x is not authorized to perform: dynamodb:GetItem"), AccessDenied),
    "unknown key": (Answer.error("UnrecognizedClientException"), AccessDenied),
    "wrong secret": (Answer.error("InvalidSignatureException", f"does not match\n\nThe Canonical String was {SECRET}"), AccessDenied),
    "expired token": (Answer.error("ExpiredTokenException"), AccessDenied),
    "401 of a proxy": (Answer(b"<html>", 401, genuine=False), AccessDenied),
    "403 of a proxy": (Answer(b"<html>", 403, genuine=False), AccessDenied),
    "no table": (Answer.error("ResourceNotFoundException", "Requested resource not found"), ResourceNotReady),
    "throttled": (Answer.error("ProvisionedThroughputExceededException"), Unavailable),
    "throttled account": (Answer.error("ThrottlingException"), Unavailable),
    "broken": (Answer.error("InternalServerError", status=500), Unavailable),
    "down for maintenance": (Answer(b"<html>", 503, genuine=False), Unavailable),
    "not a DynamoDB, 404": (Answer(b"<html>", 404, genuine=False), Unavailable),
    "not a DynamoDB, 200": (Answer(b"welcome", 200, genuine=False), Unavailable),
    "not a DynamoDB, JSON": (Answer({"status": "ok"}, 200, genuine=False), Unavailable),
    "wrong request": (Answer.error("ValidationException", "The provided key element does not match the schema"), RequestRejected),
    "anything else": (Answer.error("IdempotentParameterMismatchException"), AnalyticsError),
}


@pytest.mark.parametrize(("answer", "expected"), ERRORS.values(), ids=ERRORS.keys())
def test_every_error_is_translated_and_names_operation_table_and_endpoint(answer: Answer, expected: type[AnalyticsError]) -> None:
    with scripted(answer) as server:
        for request in (lambda: server.dynamo.get("some-table", {"id": {"S": "a"}}), lambda: server.dynamo.transact([PUT])):
            with pytest.raises(AnalyticsError) as raised:
                request()
            assert type(raised.value) is expected
            message = str(raised.value)
            assert "Item" in message
            assert "some-table" in message
            assert server.dynamo.config.endpoint_description in message
            assert SECRET not in message
    assert not server.pauses


def test_a_missing_table_error_names_the_setup_command() -> None:
    with scripted(Answer.error("ResourceNotFoundException")) as server, pytest.raises(ResourceNotReady, match="analytics setup"):
        server.dynamo.get("some-table", {"id": {"S": "a"}})


def test_a_server_error_is_retried_by_the_client() -> None:
    with scripted(Answer.error("InternalServerError", status=500), Answer({"Item": STORED}), attempts=2) as server:
        assert server.dynamo.get("some-table", {"id": {"S": "a"}}) == STORED
    assert len(server.requests) == 2


def test_a_hanging_server_costs_bounded_time() -> None:
    started = time.monotonic()
    with scripted(None, read_timeout=timedelta(seconds=0.2)) as server, pytest.raises(Unavailable, match="ReadTimeout"):
        server.dynamo.transact([PUT])
    assert time.monotonic() - started < 10
    assert len(server.transactions) == 1


def test_a_closed_port_is_unavailable() -> None:
    with socket.socket() as bound_socket:
        bound_socket.bind(("127.0.0.1", 0))
        dynamo = DynamoClient(
            DynamoConfig(endpoint=f"http://127.0.0.1:{bound_socket.getsockname()[1]}", access_key="a", secret_key=SECRET, attempts=1)
        )
        with pytest.raises(Unavailable, match=f"GetItem on t at http://127.0.0.1:{bound_socket.getsockname()[1]}.*EndpointConnectionError"):
            dynamo.get("t", {"id": {"S": "a"}})
        dynamo.close()


def test_missing_credentials_and_missing_region_raise_different_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SettingsError, match="AWS_DEFAULT_REGION"):
        DynamoClient(DynamoConfig()).get("t", {"id": {"S": "a"}})
    with pytest.raises(AccessDenied, match="NoCredentialsError"):
        DynamoClient(DynamoConfig(region="eu-central-1")).get("t", {"id": {"S": "a"}})


def test_a_client_connects_on_its_first_request_only() -> None:
    def never(config: DynamoConfig) -> Any:
        raise AssertionError(f"connected to {config}")

    DynamoClient(DynamoConfig(), connect=never).close()


def test_the_repr_of_a_configuration_hides_its_secret() -> None:
    assert SECRET not in repr(DynamoConfig(endpoint="http://x", access_key="a", secret_key=SECRET))


def test_a_closed_client_connects_again_on_its_next_use() -> None:
    with scripted(Answer({"Item": STORED})) as server:
        for _ in range(2):
            assert server.dynamo.get("t", {"id": {"S": "a"}}) == STORED
            server.dynamo.close()
    assert json.dumps(server.requests[0]) == json.dumps(server.requests[1])
