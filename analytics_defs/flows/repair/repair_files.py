"""Repair of the files of one batch: dead letters, duplicates and Parquet parts, encoded again and compared."""

from __future__ import annotations

from collections.abc import Sequence

from analytics_defs.core.events.event import Rejection
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.repair import ComparisonResult, EventOutcomes, StoredKind
from analytics_defs.core.sha256 import sha256_hex
from analytics_defs.core.storage import dead_letter_files
from analytics_defs.core.storage.content_types import NDJSON_CONTENT_TYPE
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.repair.findings import Findings
from analytics_defs.ports import Ports, StoredObject


class FileRepair:
    """Comparison of the files of one batch. Each call adds to `findings`, and to `differing` if the file has to be written."""

    def __init__(self, record: BatchRecord, ports: Ports, findings: Findings) -> None:
        self._record, self._ports, self._findings = record, ports, findings
        self.differing: list[StoredObject] = []
        """The files to write."""

    def compare_dead_letters(self, rejections: Sequence[Rejection], is_partial: bool) -> None:
        """Compare the dead-letter file. `is_partial`: Kafka has lost records of the batch.

        Raises InconsistentState if the records in Kafka do not make the file whose digest is in the ledger.
        """
        record, key = self._record, self._record.dead_letters_key
        rebuilt = dead_letter_files.encode_dead_letters(rejections)
        digest = sha256_hex(rebuilt)
        is_complete = len(rejections) == record.outcome_counts.dead_letters
        if not is_partial and (not is_complete or (key and record.dead_letters_digest not in (None, digest))):
            raise InconsistentState(
                f"batch {record.batch.id}: its records in Kafka make {len(rejections)} dead letters of SHA-256 {digest}; the ledger has "
                f"{record.outcome_counts.dead_letters} of {record.dead_letters_digest}. Nothing of this batch was changed."
            )
        if key is None:
            return
        held = self._ports.object_store.get(key)
        expected = record.dead_letters_digest or (digest if is_complete else None)
        if held is not None and expected in (None, sha256_hex(held)):
            self._findings.note(StoredKind.DEAD_LETTERS, ComparisonResult.IDENTICAL, key)
        elif is_complete and expected == digest:
            self.compare(StoredKind.DEAD_LETTERS, held, StoredObject(key, rebuilt, NDJSON_CONTENT_TYPE, {}))
        else:
            self._findings.lost.append(
                f"batch {record.batch.id}: its {record.outcome_counts.dead_letters} dead letters in {key} are altered or missing, and "
                "Kafka does not have their records any more. Restore the object from the bucket's versions."
            )

    def compare_duplicates(self, outcomes: EventOutcomes) -> None:
        """Compare the duplicates file by its digest. It is written only if the rebuilt file has the recorded digest."""
        record, key = self._record, self._record.duplicates_key
        if key is None:
            return
        held = self._ports.object_store.get(key)
        if held is not None and sha256_hex(held) == record.duplicates_digest:
            self._findings.note(StoredKind.DUPLICATES, ComparisonResult.IDENTICAL, key)
        elif outcomes.duplicates_file is not None:
            self.compare(StoredKind.DUPLICATES, held, StoredObject(key, outcomes.duplicates_file, NDJSON_CONTENT_TYPE, {}))
        else:
            self._findings.lost.append(
                f"batch {record.batch.id}: its {record.outcome_counts.duplicates} duplicates in {key} are altered or missing: the file "
                f"does not have SHA-256 {record.duplicates_digest}, and Kafka and the stores do not suffice to rebuild it. "
                "Restore the object from the bucket's versions."
            )

    def compare(self, store: StoredKind, held: bytes | None, object_: StoredObject) -> None:
        """Compare the bytes that a key holds, None if it holds none, with those that the batch wrote."""
        if held == object_.body:
            self._findings.note(store, ComparisonResult.IDENTICAL, object_.key)
            return
        self._findings.note(store, ComparisonResult.MISSING if held is None else ComparisonResult.DIFFERENT, object_.key)
        self.differing.append(object_)
