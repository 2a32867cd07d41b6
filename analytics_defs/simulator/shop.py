"""A simulated shop: realistic product events, deterministic by seed and clock, for demos and benchmarks.

Products are created, sold, restocked, repriced and deleted, and their stock runs low. `TrafficMix` sets the ratios of
unusual records.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any, NamedTuple

from analytics_defs.core.events.rejection_reasons import RejectionReason
from analytics_defs.core.timestamps import iso_milliseconds

LOW_STOCK = 10
"""The threshold of a `LowStockWarning`."""
MAX_PRODUCTS = 5_000
"""Maximum number of products. It bounds the memory: at the limit, a product is deleted before another is created."""

_MIN_PRODUCTS = 50
_DUPLICATE_WINDOW = 1_000
_MAX_DELAY = timedelta(days=3)

_MAKES = ("Stoneware", "Enamel", "Walnut", "Linen", "Brass", "Recycled", "Organic", "Handmade", "Folding", "Café", "Nordic", "Merino")
_GOODS = {
    "kitchen": ("mug, 350 ml", "casserole, 4 l", "bread board", "pepper mill", "carafe, 1 l"),
    "home": ("table lamp", "cushion, 45 cm", "wall clock", "bath mat", "coat rack"),
    "garden": ("watering can, 9 l", "planter Ø 30", "pruning shears", "bird feeder"),
    "clothing": ("scarf", "beanie", "socks, 3 pairs", "rain jacket", "apron"),
    "stationery": ("notebook A5, dotted", "fountain pen", "desk organiser", "wrapping paper"),
}
_SELLERS = tuple(f"seller-{name}" for name in ("aalto", "birch", "calder", "dufour", "endo", "fjord", "garcía", "hansen", "ito", "jansen"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficMix:
    """Ratios of unusual records, each from 0 (none) to 1 (all). A late event may also be in legacy form."""

    legacy: float = 0.05
    """Events in the legacy form: no id, no timestamp."""
    late: float = 0.01
    """Events with a timestamp one hour to three days in the past."""
    duplicated: float = 0.01
    """Records that repeat one of the last 1,000 events byte for byte, as a producer retry does.

    Legacy events are not repeated: they have no id.
    """
    broken: float = 0.005
    """Records that are not valid events, see `BROKEN`."""


DEFAULT_MIX = TrafficMix()
CLEAN_MIX = TrafficMix(legacy=0, late=0, duplicated=0, broken=0)
"""Only distinct, valid, timely events in current form."""


class Message(NamedTuple):
    """A record to produce. Its key is the product id, so that the events of a product stay in order."""

    topic: str
    key: bytes
    value: bytes


def messages(seed: int, clock: Callable[[], datetime], mix: TrafficMix = DEFAULT_MIX) -> Iterator[Message]:
    """Yield the records of the shop endlessly.

    The same seed, mix and results of `clock` give the same bytes. `clock` returns an aware time and is called once
    for each record.
    """
    random, shop = Random(seed), _Shop(Random(f"shop {seed}"))
    sent: deque[Message] = deque(maxlen=_DUPLICATE_WINDOW)
    while True:
        now = clock()
        if random.random() < mix.duplicated and sent:
            yield random.choice(sent)
            continue
        if random.random() < mix.late:
            now -= timedelta(hours=1) + random.random() * (_MAX_DELAY - timedelta(hours=1))
        event = shop.next_event(now)
        if random.random() < mix.broken:
            yield event.message(random.choice(_WAYS_TO_BREAK)(event.current()))
        elif random.random() < mix.legacy:
            yield event.message(_text(event.legacy()))
        else:
            sent.append(event.message(_text(event.current())))
            yield sent[-1]


@dataclass(frozen=True, slots=True)
class _Product:
    id: str
    name: str
    category: str
    seller_id: str
    cents: int
    stock: int
    created_at: str
    updated_at: str

    def current(self) -> dict[str, Any]:
        return {**self.summary(), "createdAt": self.created_at, "updatedAt": self.updated_at}

    def summary(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "price": self.cents / 100, "stock": self.stock, "sellerId": self.seller_id}

    def legacy(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "sellerId": self.seller_id,
            "name": self.name,
            "description": None,
            "price": self.cents / 100,
            "quantity": self.stock,
            "category": self.category,
            "createdAt": self.created_at,
            "updatedAt": self.updated_at,
        }


@dataclass(frozen=True, slots=True)
class _Event:
    id: str
    type: str
    timestamp: str
    product: _Product
    previous: _Product | None = None

    def message(self, value: bytes) -> Message:
        return Message(self.type, self.product.id.encode(), value)

    def current(self) -> dict[str, Any]:
        product = self.product
        header = {"id": self.id, "timestamp": self.timestamp, "type": self.type, "version": "1.0"}
        match self.type:
            case "ProductDeleted":
                return {**header, "productId": product.id, "sellerId": product.seller_id}
            case "LowStockWarning":
                stock = {"currentStock": product.stock, "threshold": LOW_STOCK}
                return {**header, "productId": product.id, "productName": product.name, **stock, "sellerId": product.seller_id}
        previous = {"previousProduct": self.previous.summary()} if self.previous else {}
        return {**header, "product": product.current(), **previous}

    def legacy(self) -> dict[str, Any]:
        product = self.product
        header = {"type": self.type, "version": "1", "occurredAt": self.timestamp, "sellerId": product.seller_id}
        match self.type:
            case "ProductDeleted":
                return {**header, "productId": product.id}
            case "LowStockWarning":
                return {**header, "productId": product.id, "quantity": product.stock, "threshold": LOW_STOCK, "category": product.category}
        return {**header, "product": product.legacy(), **({"changes": self._changes(self.previous)} if self.previous else {})}

    def _changes(self, previous: _Product) -> dict[str, Any]:
        before, after = previous.legacy(), self.product.legacy()
        return {name: {"from": before[name], "to": after[name]} for name in ("price", "quantity") if before[name] != after[name]}


class _Shop:
    """The products of the shop and the random sequence of their events."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._products: list[_Product] = []
        self._ran_low: _Product | None = None
        self._created = 0

    def next_event(self, now: datetime) -> _Event:
        time = iso_milliseconds(now)
        if self._ran_low:
            low, self._ran_low = self._ran_low, None
            return self._event("LowStockWarning", time, low)
        choice = self._random.random()
        if len(self._products) < _MIN_PRODUCTS or (choice < 0.07 and len(self._products) < MAX_PRODUCTS):
            return self._create(time)
        if choice < 0.11:
            return self._event("ProductDeleted", time, self._remove(self._pick()))
        index = self._pick()
        before = self._products[index]
        after = replace(self._reprice(before) if choice < 0.18 else self._sell_or_restock(before), updated_at=time)
        self._products[index] = after
        if after.stock <= LOW_STOCK < before.stock:
            self._ran_low = after
        return self._event("ProductUpdated", time, after, before)

    def _event(self, event_type: str, time: str, product: _Product, previous: _Product | None = None) -> _Event:
        digits = f"{self._random.getrandbits(128):032x}"
        variant = "89ab"[int(digits[16], 16) % 4]
        event_id = f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
        return _Event(event_id, event_type, time, product, previous)

    def _create(self, time: str) -> _Event:
        random, self._created = self._random, self._created + 1
        category = random.choice(tuple(_GOODS))
        name = f"{random.choice(_MAKES)} {random.choice(_GOODS[category])}"
        cents, stock = random.randrange(195, 24_995, 50), random.randrange(20, 80)
        product = _Product(f"product-{self._created:06}", name, category, random.choice(_SELLERS), cents, stock, time, time)
        self._products.append(product)
        return self._event("ProductCreated", time, product)

    def _pick(self) -> int:
        """Return the index of a random product. A few products are chosen most often."""
        return int(len(self._products) * self._random.random() ** 2)

    def _remove(self, index: int) -> _Product:
        """Remove a product in constant time: the last product moves to its index."""
        self._products[index], removed = self._products[-1], self._products[index]
        self._products.pop()
        return removed

    def _reprice(self, product: _Product) -> _Product:
        return replace(product, cents=max(95, round(product.cents * self._random.uniform(0.8, 1.25))))

    def _sell_or_restock(self, product: _Product) -> _Product:
        restock = product.stock == 0 or (product.stock <= LOW_STOCK and self._random.random() < 0.3)
        change = self._random.randrange(30, 90) if restock else -min(product.stock, self._random.randrange(1, 8))
        return replace(product, stock=product.stock + change)


def _text(document: Mapping[str, Any]) -> bytes:
    return _encode(document).encode()


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

BROKEN: Mapping[RejectionReason, Callable[[dict[str, Any]], bytes]] = {
    RejectionReason.NOT_UTF8: lambda event: _encode(event).encode("utf-16"),
    RejectionReason.NOT_JSON: lambda event: _text(event)[:-20],
    RejectionReason.DUPLICATE_KEY: lambda event: b'{"version":"1.0",' + _text(event)[1:],
    RejectionReason.NESTED_TOO_DEEP: lambda event: _text(event | {"trace": 0}).replace(b'"trace":0', b'"trace":' + b"[" * 200 + b"]" * 200),
    RejectionReason.LONE_SURROGATE: lambda event: _text(event)[:-1] + b',"note":"\\ud83d"}',
    RejectionReason.NOT_AN_OBJECT: lambda event: b"[" + _text(event) + b"]",
    RejectionReason.UNKNOWN_TYPE: lambda event: _text(event | {"type": "ProductViewed"}),
    RejectionReason.SCHEMA: lambda event: _text(event | {"timestamp": "yesterday"}),
    RejectionReason.ID_TOO_LONG: lambda event: _text(event | {"id": event["id"] * 100}),
    RejectionReason.TIMESTAMP_IN_FUTURE: lambda event: _text(event | {"timestamp": "2999-12-31T23:59:59Z"}),
}
"""Functions that make an invalid record of an event in current form, by the reason of its rejection."""
_WAYS_TO_BREAK = tuple(BROKEN.values())
