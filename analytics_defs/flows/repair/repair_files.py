"""The files of one batch, made anew: its dead letters, its repeats, its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analytics_defs.core.events.event import Event, Rejection
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Source
from analytics_defs.core.repair import Fates, State, Store
from analytics_defs.core.storage import dead_letter_files
from analytics_defs.errors import Contradiction
from analytics_defs.flows.repair.findings import Findings
from analytics_defs.ports import Blob, Ports

_NDJSON = "application/x-ndjson"


class Files:
    """Asked for one after the other; what is not as it has to be is in `differing`."""

    def __init__(self, record: BatchRecord, ports: Ports, findings: Findings) -> None:
        self._record, self._ports, self._findings = record, ports, findings
        self.differing: list[Blob] = []
        """As they have to be."""

    def dead_letters(self, rejections: Sequence[Rejection], partly: bool) -> None:
        """Raises Contradiction where Kafka's records make another file than the digest in the ledger says."""
        record, key = self._record, self._record.dead_letters_key
        made = dead_letter_files.dead_letter_file(rejections)
        complete = len(rejections) == record.tally.dead_letters
        if not partly and (not complete or (key and record.dead_letters_digest not in (None, dead_letter_files.digest(made)))):
            raise Contradiction(
                f"batch {record.batch.id}: its records in Kafka make {len(rejections)} dead letters of SHA-256 "
                f"{dead_letter_files.digest(made)}; the ledger has {record.tally.dead_letters} of {record.dead_letters_digest}. Nothing of this batch was changed."
            )
        if key is None:
            return
        held = self._ports.archive.get(key)
        noted = record.dead_letters_digest or (dead_letter_files.digest(made) if complete else None)
        if held is not None and noted in (None, dead_letter_files.digest(held)):
            self._findings.note(Store.DEAD_LETTERS, State.IDENTICAL, key)
        elif complete and noted == dead_letter_files.digest(made):
            self.compare(Store.DEAD_LETTERS, held, Blob(key, made, _NDJSON, {}))
        else:
            self._findings.lost.append(
                f"batch {record.batch.id}: its {record.tally.dead_letters} dead letters in {key} are altered or gone, and Kafka does not "
                "have their records any more. Restore the object from the bucket's versions."
            )

    def repeats(self, events: Mapping[Source, Event], became: Fates) -> None:
        record, key = self._record, self._record.repeats_key
        if key is None:
            return
        held = self._ports.archive.get(key)
        pairs = [(events[each], holder) for each, holder in sorted(became.repeats.items()) if holder and each in events]
        if len(pairs) == record.tally.repeats:
            self.compare(Store.REPEATS, held, Blob(key, dead_letter_files.repeat_file(pairs), _NDJSON, {}))
        elif became.lines_agree:
            self._findings.note(Store.REPEATS, State.IDENTICAL, key)
        else:
            self._findings.lost.append(
                f"batch {record.batch.id}: {record.tally.repeats - len(pairs)} of the {record.tally.repeats} repeats in {key} are altered "
                "or gone, and no store has their records, or who held their ids, any more."
            )

    def compare(self, store: Store, held: bytes | None, blob: Blob) -> None:
        if held == blob.body:
            self._findings.note(store, State.IDENTICAL, blob.key)
            return
        self._findings.note(store, State.MISSING if held is None else State.DIFFERENT, blob.key)
        self.differing.append(blob)
