"""Transactions of the embedded DynamoDB are still atomic with the patch."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from analytics_defs.devstack.moto_patches import patch_transactions
patch_transactions()
patch_transactions()
import boto3
from botocore.exceptions import ClientError
from moto import mock_aws
with mock_aws():
    client = boto3.client("dynamodb", region_name="us-east-1", aws_access_key_id="fake", aws_secret_access_key="fake")
    client.create_table(
        TableName="checkpoints",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        BillingMode="PAY_PER_REQUEST",
    )
    def key(name): return {"pk": {"S": "p"}, "sk": {"S": name}}
    def update(name, condition="attribute_not_exists(absent)"):
        return {"Update": {"TableName": "checkpoints", "Key": key(name), "UpdateExpression": "ADD n :one",
                "ConditionExpression": condition, "ExpressionAttributeValues": {":one": {"N": "1"}}}}
    def item(name): return client.get_item(TableName="checkpoints", Key=key(name)).get("Item", {}).get("n")
    client.transact_write_items(TransactItems=[update("a"), update("b")])
    assert (item("a"), item("b")) == ({"N": "1"}, {"N": "1"})
    put = {"Put": {"TableName": "checkpoints", "Item": key("c") | {"n": {"N": "5"}}}}
    delete = {"Delete": {"TableName": "checkpoints", "Key": key("b")}}
    try:
        client.transact_write_items(TransactItems=[update("a"), put, delete, update("d", "attribute_exists(pk)")])
        raise AssertionError("the transaction was not rejected")
    except ClientError as error:
        assert [reason["Code"] for reason in error.response["CancellationReasons"]] == ["None", "None", "None", "ConditionalCheckFailed"]
    assert (item("a"), item("b"), item("c"), item("d")) == ({"N": "1"}, {"N": "1"}, None, None)
print("passed")
"""


def test_a_transaction_changes_all_of_its_items_or_none() -> None:
    process = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert process.stdout == "passed\n", process.stderr
