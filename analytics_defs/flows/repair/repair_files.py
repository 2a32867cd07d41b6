"""The files of one batch, made anew: its dead letters, its repeats, its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analytics_defs.core.events.event import Event, Rejection
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Source
from analytics_defs.core.repair import ComparisonResult, EventOutcomes, StoreKind
from analytics_defs.core.sha256 import sha256_hex
from analytics_defs.core.storage import dead_letter_files
from analytics_defs.core.storage.content_types import NDJSON_CONTENT_TYPE
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.repair.findings import Findings
from analytics_defs.ports import Ports, StoredObject


class FileRepair:
    """Asked for one after the other; what is not as it has to be is in `differing`."""

    def __init__(self, record: BatchRecord, ports: Ports, findings: Findings) -> None:
        self._record, self._ports, self._findings = record, ports, findings
        self.differing: list[StoredObject] = []
        """As they have to be."""

    def dead_letters(self, rejections: Sequence[Rejection], partly: bool) -> None:
        """Raises InconsistentState where Kafka's records make another file than the digest in the ledger says."""
        record, key = self._record, self._record.dead_letters_key
        made = dead_letter_files.encode_dead_letters(rejections)
        complete = len(rejections) == record.tally.dead_letters
        if not partly and (not complete or (key and record.dead_letters_digest not in (None, sha256_hex(made)))):
            raise InconsistentState(
                f"batch {record.batch.id}: its records in Kafka make {len(rejections)} dead letters of SHA-256 "
                f"{sha256_hex(made)}; the ledger has {record.tally.dead_letters} of "
                f"{record.dead_letters_digest}. Nothing of this batch was changed."
            )
        if key is None:
            return
        held = self._ports.object_store.get(key)
        noted = record.dead_letters_digest or (sha256_hex(made) if complete else None)
        if held is not None and noted in (None, sha256_hex(held)):
            self._findings.note(StoreKind.DEAD_LETTERS, ComparisonResult.IDENTICAL, key)
        elif complete and noted == sha256_hex(made):
            self.compare(StoreKind.DEAD_LETTERS, held, StoredObject(key, made, NDJSON_CONTENT_TYPE, {}))
        else:
            self._findings.lost.append(
                f"batch {record.batch.id}: its {record.tally.dead_letters} dead letters in {key} are altered or gone, and Kafka does not "
                "have their records any more. Restore the object from the bucket's versions."
            )

    def duplicates(self, events: Mapping[Source, Event], became: EventOutcomes) -> None:
        record, key = self._record, self._record.duplicates_key
        if key is None:
            return
        held = self._ports.object_store.get(key)
        pairs = [(events[each], holder) for each, holder in sorted(became.duplicates.items()) if holder and each in events]
        if len(pairs) == record.tally.duplicates:
            self.compare(StoreKind.DUPLICATES, held, StoredObject(key, dead_letter_files.encode_duplicates(pairs), NDJSON_CONTENT_TYPE, {}))
        elif became.lines_agree:
            self._findings.note(StoreKind.DUPLICATES, ComparisonResult.IDENTICAL, key)
        else:
            self._findings.lost.append(
                f"batch {record.batch.id}: {record.tally.duplicates - len(pairs)} of the {record.tally.duplicates} repeats in {key} are altered "
                "or gone, and no store has their records, or who held their ids, any more."
            )

    def compare(self, store: StoreKind, held: bytes | None, blob: StoredObject) -> None:
        if held == blob.body:
            self._findings.note(store, ComparisonResult.IDENTICAL, blob.key)
            return
        self._findings.note(store, ComparisonResult.MISSING if held is None else ComparisonResult.DIFFERENT, blob.key)
        self.differing.append(blob)
