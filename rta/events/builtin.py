"""The built-in datasource `events`: the event shape of the interface, as the document a user would write."""

from __future__ import annotations

from typing import Any

TEXT_MAX = 128
"""Characters of an event id and an event type."""

PROPERTIES = [
    "page_url",
    "page_title",
    "referrer",
    "user_agent",
    "ip_address",
    "country",
    "device_type",
    "browser",
    "browser_version",
    "os",
    "referrer_host",
    "page_host",
    "page_path",
    "utm_source",
    "utm_medium",
    "utm_campaign",
    "utm_term",
    "utm_content",
]


def events_document() -> dict[str, Any]:
    """The document of the built-in datasource `events`, fresh at every call."""
    columns: dict[str, Any] = {
        "event_id": {"path": "event_id", "type": "string", "required": True, "max_length": TEXT_MAX},
        "event_type": {"path": "event_type", "type": "string", "required": True, "max_length": TEXT_MAX},
        "user_id": "string",
        "session_id": "string",
    }
    columns |= {name: {"path": f"properties.{name}", "type": "string"} for name in PROPERTIES}
    columns["is_bot"] = {"path": "properties.is_bot", "type": "boolean"}
    columns["price"] = {"path": "custom_properties.price", "type": "double"}
    return {
        "name": "events",
        "time": "timestamp",
        "key": ["user_id", "session_id", "event_type"],
        "id": "event_id",
        "columns": columns,
        "rollups": [_traffic()],
    }


def _traffic() -> dict[str, Any]:
    return {
        "name": "traffic",
        "granularity": "minute",
        "dimensions": ["event_type", "country", "device_type", "browser", "page_path"],
        "metrics": [
            {"name": "events", "type": "count"},
            {"name": "users", "type": "unique_count", "field": "user_id"},
            {"name": "sessions", "type": "unique_count", "field": "session_id"},
            {"name": "price_sum", "type": "sum", "field": "price"},
            {"name": "price_min", "type": "min", "field": "price"},
            {"name": "price_max", "type": "max", "field": "price"},
            {"name": "price", "type": "quantile", "field": "price"},
        ],
    }
