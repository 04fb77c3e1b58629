"""The web shop: visitors who come in sessions, look, search, fill carts, buy and run into errors; and a few bots.

Owns what happens; a chain of states per session (`vocabulary.NEXT`) and who is awake at which hour. Works on columns:
one call makes one event for each of many sessions. Everything but the run's name, which is part of every id, follows
from the seed. Knows no clock: event times come in.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from rta.generate import fragments
from rta.generate import vocabulary as v
from rta.generate.fragments import shares

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BOT_SHARE = 0.03
HOUR_MS = 3_600_000
LANDING, CATEGORY, PRODUCT, SEARCH, CART, CHECKOUT, PURCHASE, ERROR, END = range(9)
"""Rows of `vocabulary.STATES`, and the end of a session."""
UNSEEN_STEPS = 8
_COUNTRY_SHARES = shares(share for _, share, _ in v.COUNTRIES)
_OUTSIDE_SHARES = shares(share for _, share in v.REFERRERS)
_NO_REFERRER = [url for url, _ in v.REFERRERS].index("")
_ERROR_SHARES = shares(share for _, _, share in v.ERRORS)


def busyness(times_ms: Ints) -> Floats:
    """How busy the whole shop is at each time; the mean over a day is 1."""
    return np.asarray(_awake(times_ms) @ _COUNTRY_SHARES, dtype=np.float64)


def _awake(times_ms: Ints) -> Floats:
    """How busy each country is, shape (times, countries), by its own hour of the day."""
    offsets = np.array([offset for _, _, offset in v.COUNTRIES])
    hour = (times_ms[:, None] / HOUR_MS + offsets) % 24
    weights = np.array(v.HOUR_WEIGHTS) * 24 / sum(v.HOUR_WEIGHTS)
    low = hour.astype(np.int64) % 24
    part = hour - np.floor(hour)
    return np.asarray(weights[low] * (1 - part) + weights[(low + 1) % 24] * part, dtype=np.float64)


class Shop:
    """All visitors and their open sessions.

    Args:
        seed: Same seed, same times: same events, but for their ids.
        run: Part of every event's and session's id, so that two runs do not look like a repetition.
        sessions: How many are open at a time; one call makes at most one event for each.
    """

    def __init__(self, seed: int, run: str, sessions: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._run = run
        self._made = 0
        self._sessions_made = 0
        self._visitors = fragments.visitors(self._rng)
        self._country_first = np.searchsorted(self._visitors.country, np.arange(len(v.COUNTRIES) + 1))
        self._pages = fragments.pages()
        self._customs = fragments.customs(self._rng)
        self._types = fragments.types()
        self._chain = fragments.chain()
        self._state = np.full(sessions, END, dtype=np.int64)
        self._visitor = np.zeros(sessions, dtype=np.int64)
        self._session = np.zeros(sessions, dtype=np.int64)
        self._product = np.zeros(sessions, dtype=np.int64)
        self._page = np.zeros(sessions, dtype=np.int64)
        self._settled = False

    @property
    def events_max(self) -> int:
        """The most events that one call may ask for."""
        return len(self._state)

    def events(self, times_ms: Ints) -> bytes:
        """One event at each of the times, as NDJSON."""
        if len(times_ms) == 0:
            return b""
        if not self._settled:
            self._settle(int(times_ms[0]))
        is_bot = self._rng.random(len(times_ms)) < BOT_SHARE
        slots = self._rng.permutation(len(self._state))[: len(times_ms)]
        referrer = self._advance(slots, times_ms)
        return self._render(times_ms, slots, referrer, is_bot)

    def _settle(self, time_ms: int) -> None:
        """Let the sessions run for a while unseen, or they would all begin at once."""
        everyone = np.arange(len(self._state))
        for _ in range(UNSEEN_STEPS):
            self._advance(everyone, np.full(len(everyone), time_ms, dtype=np.int64))
        self._settled = True

    def _advance(self, slots: Ints, times_ms: Ints) -> Ints:
        """Move these sessions on by one event. Returns where each comes from, as a row of the referrers."""
        drawn = self._rng.random(len(slots))
        state = (drawn[:, None] >= self._chain[self._state[slots]]).sum(axis=1)
        referrer = self._page[slots] + len(v.REFERRERS)
        new = state == END
        count = int(new.sum())
        self._visitor[slots[new]] = self._arrivals(times_ms[new])
        self._session[slots[new]] = self._sessions_made + np.arange(count)
        self._sessions_made += count
        referrer[new] = self._rng.choice(len(v.REFERRERS), count, p=_OUTSIDE_SHARES)
        state = np.where(new, LANDING, state)
        looks = state == PRODUCT
        self._product[slots[looks]] = self._popular(v.PRODUCTS, int(looks.sum()))
        self._state[slots] = state
        self._page[slots] = self._page_of(state, slots)
        return referrer

    def _arrivals(self, times_ms: Ints) -> Ints:
        """Who comes now: a country that is awake, and in it rather a regular than a stranger."""
        if len(times_ms) == 0:
            return np.zeros(0, dtype=np.int64)
        country = self._rng.choice(len(v.COUNTRIES), len(times_ms), p=shares(_awake(times_ms[:1])[0] * _COUNTRY_SHARES))
        first, beyond = self._country_first[country], self._country_first[country + 1]
        return (first + (beyond - first) * self._rng.random(len(times_ms)) ** 2).astype(np.int64)

    def _popular(self, count: int, size: int) -> Ints:
        return (count * self._rng.random(size) ** 3).astype(np.int64)

    def _page_of(self, state: Ints, slots: Ints) -> Ints:
        pages = self._pages
        category = self._rng.integers(0, len(v.CATEGORIES), len(state))
        fixed = np.array([pages.landing, 0, 0, pages.search, pages.cart, pages.checkout, pages.thanks, 0])[state]
        page = np.where(state == CATEGORY, pages.categories + category, fixed)
        page = np.where(state == PRODUCT, pages.products + self._product[slots], page)
        return np.where(state == ERROR, self._page[slots], page)

    def _custom_of(self, state: Ints, product: Ints) -> Ints:
        """The row of what each event says beside the page."""
        count = len(state)
        quantity = (fragments.QUANTITY_MAX * self._rng.random(count) ** 3).astype(np.int64)
        bought = self._customs.bought + product * fragments.QUANTITY_MAX + quantity
        searched = self._customs.searched + self._popular(len(v.SEARCHES), count)
        failed = self._customs.failed + self._rng.choice(len(v.ERRORS), count, p=_ERROR_SHARES)
        looked_at = self._customs.looked_at + product
        cases = [(state == PRODUCT) | (state == CART), state == PURCHASE, state == SEARCH, state == ERROR]
        return np.select(cases, [looked_at, bought, searched, failed], 0)

    def _render(self, times_ms: Ints, slots: Ints, referrer: Ints, is_bot: npt.NDArray[np.bool_]) -> bytes:
        count = len(times_ms)
        bot = self._rng.integers(0, len(v.BOTS), count)
        crawled = self._rng.integers(0, v.PRODUCTS, count)
        state = np.where(is_bot, PRODUCT, self._state[slots])
        product = np.where(is_bot, crawled, self._product[slots])
        page = np.where(is_bot, self._pages.products + crawled, self._page[slots])
        who = np.where(is_bot, fragments.VISITORS + bot, self._visitor[slots])
        number = np.arange(self._made, self._made + count)
        self._made += count
        parts = (
            pl.lit(f'{{"event_id":"{self._run}-'),
            pl.Series(number),
            pl.lit('","timestamp":"'),
            pl.Series(times_ms).cast(pl.Datetime("ms")).dt.to_string("%Y-%m-%dT%H:%M:%S%.3fZ"),
            self._types.gather(state),
            self._visitors.users.gather(who),
            pl.lit(f',"session_id":"{self._run}-s'),
            pl.Series(np.where(is_bot, -1 - bot, self._session[slots])),
            pl.lit('","properties":{'),
            self._pages.traits.gather(page),
            self._visitors.traits.gather(who),
            self._pages.referrers.gather(np.where(is_bot, _NO_REFERRER, referrer)),
            self._customs.texts.gather(self._custom_of(state, product)),
        )
        text: str = pl.select(pl.concat_str(*parts).str.join("")).item()
        return text.encode()
