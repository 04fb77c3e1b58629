"""A table of ClickBench's `hits` shape, made up with a seed, and the benchmark's 43 queries.

The queries are those of the benchmark (https://github.com/ClickHouse/ClickBench), with the counter and the month that the table
holds. Columns have the types that rta's columns can have: what is a small integer there is a `long` here.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rta.events.schemas import ARROW_TYPES, REST, TIME, Column, ColumnType, Datasource, Retention

START_MS = 1_372_636_800_000
"""2013-07-01T00:00Z."""
DAYS = 31
_LONGS_TEXT = (
    "WatchID JavaEnable GoodEvent CounterID ClientIP RegionID UserID CounterClass OS UserAgent IsRefresh "
    "RefererCategoryID RefererRegionID URLCategoryID URLRegionID ResolutionWidth ResolutionHeight ResolutionDepth "
    "FlashMajor FlashMinor NetMajor NetMinor UserAgentMajor CookieEnable JavascriptEnable IsMobile MobilePhone "
    "IPNetworkID TraficSourceID SearchEngineID AdvEngineID IsArtifical WindowClientWidth WindowClientHeight "
    "ClientTimeZone SilverlightVersion1 SilverlightVersion2 SilverlightVersion3 SilverlightVersion4 CodeVersion "
    "IsLink IsDownload IsNotBounce FUniqID HID IsOldCounter IsEvent IsParameter DontCountHits WithHash Age Sex "
    "Income Interests Robotness RemoteIP WindowName OpenerName HistoryLength HTTPError SendTiming DNSTiming "
    "ConnectTiming ResponseStartTiming ResponseEndTiming FetchTiming SocialSourceNetworkID ParamPrice "
    "ParamCurrencyID HasGCLID RefererHash URLHash CLID"
)
_LONGS = _LONGS_TEXT.split()
_TEXTS_TEXT = (
    "Title URL Referer FlashMinor2 UserAgentMinor MobilePhoneModel Params SearchPhrase PageCharset OriginalURL "
    "HitColor BrowserLanguage BrowserCountry SocialNetwork SocialAction SocialSourcePage ParamOrderID ParamCurrency "
    "OpenstatServiceName OpenstatCampaignID OpenstatAdID OpenstatSourceID UTMSource UTMMedium UTMCampaign "
    "UTMContent UTMTerm FromTag"
)
_TEXTS = _TEXTS_TEXT.split()
_TIMES = ["EventTime", "EventDate", "ClientEventTime", "LocalEventTime"]
COLUMNS = (
    *(Column(name, ColumnType.LONG, (name,)) for name in _LONGS),
    *(Column(name, ColumnType.STRING, (name,)) for name in _TEXTS),
    *(Column(name, ColumnType.TIMESTAMP, (name,)) for name in _TIMES),
)


def datasource() -> Datasource:
    return Datasource(
        name="hits",
        incarnation="1",
        version=1,
        partitions=4,
        time_path=("EventTime",),
        keys=("UserID",),
        id=None,
        columns=COLUMNS,
        retention=Retention(events_ms=10**14),
    )


def rows(count: int, seed: int) -> pa.Table:
    """So many hits in the order of their times."""
    draw = np.random.default_rng(seed)
    schema = datasource().raw_schema()
    times = np.sort(draw.integers(START_MS, START_MS + DAYS * 86_400_000, count))
    times -= times % 1000
    made: dict[str, pa.Array] = {name: pa.array(draw.integers(0, 3, count)) for name in _LONGS}
    made |= {name: pa.array(np.full(count, "", object), pa.string()) for name in _TEXTS}
    made |= {name: pa.array(times, pa.int64()).cast(ARROW_TYPES[ColumnType.TIMESTAMP]) for name in (TIME, *_TIMES)}
    days = times - times % 86_400_000
    made["EventDate"] = pa.array(days, pa.int64()).cast(ARROW_TYPES[ColumnType.TIMESTAMP])
    for name, high in _SPREADS.items():
        made[name] = pa.array((draw.zipf(1.3, count) * 2_654_435_761 % high).astype(np.int64))
    made["CounterID"] = pa.array(np.where(draw.random(count) < 0.4, 62, draw.integers(0, 500, count)))
    made["UserID"] = pa.array(
        np.where(draw.random(count) < 0.01, 435_090_932_899_640_449, draw.zipf(1.2, count) % 5_000)
    )
    made["WatchID"] = pa.array(draw.integers(0, 2**62, count))
    urls = _texts(
        draw, count, 900, ["http://example.ru/{}", "http://www.google.com/q{}", "https://shop.example/{}"], 0.05
    )
    made["URL"], made["Referer"] = (
        urls,
        _texts(draw, count, 700, ["http://www.ref{}.com/p", "https://google.{}/x"], 0.2),
    )
    made["Title"] = _texts(draw, count, 300, ["Title {}", "Google {} news", "Page {}"], 0.1)
    made["SearchPhrase"] = _texts(draw, count, 250, ["phrase {}", "karelia {}"], 0.6)
    made["MobilePhoneModel"] = _texts(draw, count, 15, ["model {}"], 0.7)
    made["URLHash"] = pa.array(
        np.where(draw.random(count) < 0.2, 2_868_770_270_353_813_622, draw.integers(0, 50, count))
    )
    made["RefererHash"] = pa.array(
        np.where(draw.random(count) < 0.2, 3_594_120_000_172_545_465, draw.integers(0, 50, count))
    )
    made[REST] = pa.nulls(count, pa.string())
    places = {"__id_hi": pa.array(np.arange(count)), "__id_lo": pa.array(np.arange(count))}
    return pa.table({**made, **places}).select(schema.names).cast(schema)


_SPREADS = {
    "RegionID": 200,
    "ClientIP": 2_000,
    "ResolutionWidth": 2_560,
    "WindowClientWidth": 1_900,
    "WindowClientHeight": 1_100,
    "SearchEngineID": 30,
    "AdvEngineID": 20,
    "TraficSourceID": 9,
    "MobilePhone": 40,
}


def _texts(draw: np.random.Generator, count: int, kinds: int, forms: list[str], empty: float) -> pa.Array:
    """Texts of which some are frequent; `empty` is the share of empty ones."""
    known = np.array([forms[k % len(forms)].format(k) for k in range(kinds)], object)
    chosen = known[(draw.zipf(1.25, count) - 1) % kinds]
    chosen[draw.random(count) < empty] = ""
    return pa.array(chosen, pa.string())


_PART = "CounterID = 62 AND EventDate >= '2013-07-01' AND EventDate <= '2013-07-31'"
QUERIES = (
    "SELECT COUNT(*) FROM hits",
    "SELECT COUNT(*) FROM hits WHERE AdvEngineID <> 0",
    "SELECT SUM(AdvEngineID), COUNT(*), AVG(ResolutionWidth) FROM hits",
    "SELECT AVG(UserID) FROM hits",
    "SELECT COUNT(DISTINCT UserID) FROM hits",
    "SELECT COUNT(DISTINCT SearchPhrase) FROM hits",
    "SELECT MIN(EventDate), MAX(EventDate) FROM hits",
    "SELECT AdvEngineID, COUNT(*) FROM hits WHERE AdvEngineID <> 0 GROUP BY AdvEngineID ORDER BY COUNT(*) DESC",
    "SELECT RegionID, COUNT(DISTINCT UserID) AS u FROM hits GROUP BY RegionID ORDER BY u DESC LIMIT 10",
    "SELECT RegionID, SUM(AdvEngineID), COUNT(*) AS c, AVG(ResolutionWidth), COUNT(DISTINCT UserID) FROM hits "
    "GROUP BY RegionID ORDER BY c DESC LIMIT 10",
    "SELECT MobilePhoneModel, COUNT(DISTINCT UserID) AS u FROM hits WHERE MobilePhoneModel <> '' "
    "GROUP BY MobilePhoneModel ORDER BY u DESC LIMIT 10",
    "SELECT MobilePhone, MobilePhoneModel, COUNT(DISTINCT UserID) AS u FROM hits WHERE MobilePhoneModel <> '' "
    "GROUP BY MobilePhone, MobilePhoneModel ORDER BY u DESC LIMIT 10",
    "SELECT SearchPhrase, COUNT(*) AS c FROM hits WHERE SearchPhrase <> '' GROUP BY SearchPhrase ORDER BY c DESC LIMIT 10",
    "SELECT SearchPhrase, COUNT(DISTINCT UserID) AS u FROM hits WHERE SearchPhrase <> '' "
    "GROUP BY SearchPhrase ORDER BY u DESC LIMIT 10",
    "SELECT SearchEngineID, SearchPhrase, COUNT(*) AS c FROM hits WHERE SearchPhrase <> '' "
    "GROUP BY SearchEngineID, SearchPhrase ORDER BY c DESC LIMIT 10",
    "SELECT UserID, COUNT(*) FROM hits GROUP BY UserID ORDER BY COUNT(*) DESC LIMIT 10",
    "SELECT UserID, SearchPhrase, COUNT(*) FROM hits GROUP BY UserID, SearchPhrase ORDER BY COUNT(*) DESC LIMIT 10",
    "SELECT UserID, SearchPhrase, COUNT(*) FROM hits GROUP BY UserID, SearchPhrase LIMIT 10",
    "SELECT UserID, extract(minute FROM EventTime) AS m, SearchPhrase, COUNT(*) FROM hits "
    "GROUP BY UserID, m, SearchPhrase ORDER BY COUNT(*) DESC LIMIT 10",
    "SELECT UserID FROM hits WHERE UserID = 435090932899640449",
    "SELECT COUNT(*) FROM hits WHERE URL LIKE '%google%'",
    "SELECT SearchPhrase, MIN(URL), COUNT(*) AS c FROM hits WHERE URL LIKE '%google%' AND SearchPhrase <> '' "
    "GROUP BY SearchPhrase ORDER BY c DESC LIMIT 10",
    "SELECT SearchPhrase, MIN(URL), MIN(Title), COUNT(*) AS c, COUNT(DISTINCT UserID) FROM hits "
    "WHERE Title LIKE '%Google%' AND URL NOT LIKE '%.google.%' AND SearchPhrase <> '' "
    "GROUP BY SearchPhrase ORDER BY c DESC LIMIT 10",
    "SELECT * FROM hits WHERE URL LIKE '%google%' ORDER BY EventTime LIMIT 10",
    "SELECT SearchPhrase FROM hits WHERE SearchPhrase <> '' ORDER BY EventTime LIMIT 10",
    "SELECT SearchPhrase FROM hits WHERE SearchPhrase <> '' ORDER BY SearchPhrase LIMIT 10",
    "SELECT SearchPhrase FROM hits WHERE SearchPhrase <> '' ORDER BY EventTime, SearchPhrase LIMIT 10",
    "SELECT CounterID, AVG(STRLEN(URL)) AS l, COUNT(*) AS c FROM hits WHERE URL <> '' "
    "GROUP BY CounterID HAVING COUNT(*) > 100 ORDER BY l DESC LIMIT 25",
    r"SELECT REGEXP_REPLACE(Referer, '^https?://(?:www\.)?([^/]+)/.*$', '\1') AS k, AVG(STRLEN(Referer)) AS l, "
    "COUNT(*) AS c, MIN(Referer) FROM hits WHERE Referer <> '' GROUP BY k HAVING COUNT(*) > 100 ORDER BY l DESC LIMIT 25",
    "SELECT "
    + ", ".join(f"SUM(ResolutionWidth + {k})" if k else "SUM(ResolutionWidth)" for k in range(90))
    + " FROM hits",
    "SELECT SearchEngineID, ClientIP, COUNT(*) AS c, SUM(IsRefresh), AVG(ResolutionWidth) FROM hits "
    "WHERE SearchPhrase <> '' GROUP BY SearchEngineID, ClientIP ORDER BY c DESC LIMIT 10",
    "SELECT WatchID, ClientIP, COUNT(*) AS c, SUM(IsRefresh), AVG(ResolutionWidth) FROM hits "
    "WHERE SearchPhrase <> '' GROUP BY WatchID, ClientIP ORDER BY c DESC LIMIT 10",
    "SELECT WatchID, ClientIP, COUNT(*) AS c, SUM(IsRefresh), AVG(ResolutionWidth) FROM hits "
    "GROUP BY WatchID, ClientIP ORDER BY c DESC LIMIT 10",
    "SELECT URL, COUNT(*) AS c FROM hits GROUP BY URL ORDER BY c DESC LIMIT 10",
    "SELECT 1, URL, COUNT(*) AS c FROM hits GROUP BY 1, URL ORDER BY c DESC LIMIT 10",
    "SELECT ClientIP, ClientIP - 1, ClientIP - 2, ClientIP - 3, COUNT(*) AS c FROM hits "
    "GROUP BY ClientIP, ClientIP - 1, ClientIP - 2, ClientIP - 3 ORDER BY c DESC LIMIT 10",
    f"SELECT URL, COUNT(*) AS PageViews FROM hits WHERE {_PART} AND DontCountHits = 0 AND IsRefresh = 0 AND URL <> '' "
    "GROUP BY URL ORDER BY PageViews DESC LIMIT 10",
    f"SELECT Title, COUNT(*) AS PageViews FROM hits WHERE {_PART} AND DontCountHits = 0 AND IsRefresh = 0 AND Title <> '' "
    "GROUP BY Title ORDER BY PageViews DESC LIMIT 10",
    f"SELECT URL, COUNT(*) AS PageViews FROM hits WHERE {_PART} AND IsRefresh = 0 AND IsLink <> 0 AND IsDownload = 0 "
    "GROUP BY URL ORDER BY PageViews DESC LIMIT 10 OFFSET 1000",
    "SELECT TraficSourceID, SearchEngineID, AdvEngineID, CASE WHEN (SearchEngineID = 0 AND AdvEngineID = 0) THEN Referer "
    f"ELSE '' END AS Src, URL AS Dst, COUNT(*) AS PageViews FROM hits WHERE {_PART} AND IsRefresh = 0 "
    "GROUP BY TraficSourceID, SearchEngineID, AdvEngineID, Src, Dst ORDER BY PageViews DESC LIMIT 10 OFFSET 1000",
    f"SELECT URLHash, EventDate, COUNT(*) AS PageViews FROM hits WHERE {_PART} AND IsRefresh = 0 "
    "AND TraficSourceID IN (-1, 6) AND RefererHash = 3594120000172545465 "
    "GROUP BY URLHash, EventDate ORDER BY PageViews DESC LIMIT 10 OFFSET 100",
    f"SELECT WindowClientWidth, WindowClientHeight, COUNT(*) AS PageViews FROM hits WHERE {_PART} AND IsRefresh = 0 "
    "AND DontCountHits = 0 AND URLHash = 2868770270353813622 "
    "GROUP BY WindowClientWidth, WindowClientHeight ORDER BY PageViews DESC LIMIT 10 OFFSET 100",
    "SELECT DATE_TRUNC('minute', EventTime) AS M, COUNT(*) AS PageViews FROM hits WHERE CounterID = 62 "
    "AND EventDate >= '2013-07-14' AND EventDate <= '2013-07-15' AND IsRefresh = 0 AND DontCountHits = 0 "
    "GROUP BY DATE_TRUNC('minute', EventTime) ORDER BY DATE_TRUNC('minute', EventTime) LIMIT 10 OFFSET 1000",
)
