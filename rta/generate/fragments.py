"""The parts of an event as ready JSON text, one row for each visitor, page, referrer and choice of goods.

An event is a row of each, put together as text, which costs a tenth of encoding it as an object. Every text ends up
between quotes by way of a real JSON encoder, so that odd characters in the vocabulary do no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl

from rta.generate import vocabulary as v

Ints = npt.NDArray[np.int64]
VISITORS = 50_000
KNOWN_SHARE = 0.6
"""Visitors who are logged in: their events carry a user_id."""
QUANTITY_MAX = 3


@dataclass(frozen=True, slots=True)
class Visitors:
    """Sorted by country; the bots come after all visitors."""

    country: Ints
    users: pl.Series
    traits: pl.Series


@dataclass(frozen=True, slots=True)
class Pages:
    """The first row of each kind of page."""

    traits: pl.Series
    referrers: pl.Series
    """What follows as the referrer: first the places outside (`vocabulary.REFERRERS`), then every page of the shop."""
    landing: int
    categories: int
    products: int
    search: int
    cart: int
    checkout: int
    thanks: int


@dataclass(frozen=True, slots=True)
class Customs:
    """The end of an event, from its custom properties on; the first row of each kind. Row 0 has none."""

    texts: pl.Series
    looked_at: int
    bought: int
    """`QUANTITY_MAX` rows for each product."""
    searched: int
    failed: int


def shares(weights: Iterable[float]) -> npt.NDArray[np.float64]:
    """Weights as shares of 1."""
    array = np.array(list(weights), dtype=np.float64)
    return array / array.sum()


def types() -> pl.Series:
    """By state, from the end of the timestamp on."""
    return pl.Series([f'","event_type":{_text(v.EVENT_TYPES[state])}' for state in v.STATES])


def visitors(rng: np.random.Generator) -> Visitors:
    """All visitors, with the bots behind them."""
    country = np.sort(rng.choice(len(v.COUNTRIES), VISITORS, p=shares(share for _, share, _ in v.COUNTRIES)))
    device = rng.choice(len(v.DEVICES), VISITORS, p=shares(row[2] for row in v.DEVICES))
    known = rng.random(VISITORS) < KNOWN_SHARE
    users = [f',"user_id":"user_{number}"' if is_known else "" for number, is_known in enumerate(known.tolist())]
    traits = []
    for number, (place, kind) in enumerate(zip(country.tolist(), device.tolist(), strict=True)):
        device_type, browser, _, agent = v.DEVICES[kind]
        traits.append(_traits(agent, _address(number), v.COUNTRIES[place][0], device_type, browser))
    for number, (browser, agent) in enumerate(v.BOTS):
        users.append("")
        traits.append(_traits(agent, _address(VISITORS + number), "US", "bot", browser))
    return Visitors(country, pl.Series(users), pl.Series(traits))


def pages() -> Pages:
    rows = [("/", "Everything you need")]
    rows += [(f"/c/{name}", f"All {name}") for name, _, _ in v.CATEGORIES]
    rows += [(f"/p/{number}", f"Product {number}") for number in range(v.PRODUCTS)]
    rows += [("/search", "Search"), ("/cart", "Your cart"), ("/checkout", "Checkout"), ("/thanks", "Thank you")]
    traits = [_fields({"page_url": v.HOST + path, "page_path": path, "page_title": title}) for path, title in rows]
    before = [url for url, _ in v.REFERRERS] + [v.HOST + path for path, _ in rows]
    referrers = [f',"referrer":{_text(url)}' if url else "" for url in before]
    categories, products = 1, 1 + len(v.CATEGORIES)
    search = products + v.PRODUCTS
    return Pages(
        pl.Series(traits), pl.Series(referrers), 0, categories, products, search, search + 1, search + 2, search + 3
    )


def customs(rng: np.random.Generator) -> Customs:
    category = rng.choice(len(v.CATEGORIES), v.PRODUCTS, p=shares(row[1] for row in v.CATEGORIES))
    spread = rng.lognormal(0.0, 0.5, v.PRODUCTS)
    looked_at, bought = [], []
    for number in range(v.PRODUCTS):
        name, _, median = v.CATEGORIES[category[number]]
        product: dict[str, object] = {"product_id": str(number), "category": name}
        price = max(99, round(median * float(spread[number]) * 100))
        looked_at.append(_custom(product))
        for quantity in range(1, QUANTITY_MAX + 1):
            bought.append(_custom({**product, "quantity": quantity, "price": price * quantity / 100}))
    searched = [_custom({"search_term": term, "results": 3 + len(term) * 7 % 60}) for term in v.SEARCHES]
    failed = [_custom({"error_code": code, "message": message}) for code, message, _ in v.ERRORS]
    first_bought = 1 + len(looked_at)
    first_searched = first_bought + len(bought)
    texts = ["}}\n", *looked_at, *bought, *searched, *failed]
    return Customs(pl.Series(texts), 1, first_bought, first_searched, first_searched + len(searched))


def chain() -> npt.NDArray[np.float64]:
    """Per state (and a last row for "no session yet") the cumulated shares of the next ones; beyond them it ends."""
    rows = [[v.NEXT[state].get(to, 0.0) for to in v.STATES] for state in v.STATES]
    return np.cumsum([*rows, [0.0] * len(v.STATES)], axis=1)


def _traits(agent: str, address: str, country: str, device_type: str, browser: str) -> str:
    fields = {"user_agent": agent, "ip_address": address, "country": country}
    return "," + _fields({**fields, "device_type": device_type, "browser": browser})


def _address(number: int) -> str:
    """In 198.18.0.0/15, which is set aside for measuring (RFC 2544) and is nobody's."""
    return f"198.{18 + (number >> 16) % 2}.{number >> 8 & 255}.{number & 255}"


def _custom(fields: Mapping[str, object]) -> str:
    return '},"custom_properties":{' + _fields(fields) + "}}\n"


def _fields(fields: Mapping[str, object]) -> str:
    return orjson.dumps(fields).decode()[1:-1]


def _text(value: str) -> str:
    return orjson.dumps(value).decode()
