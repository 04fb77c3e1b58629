"""Signs a request to a bucket again, for a server whose clock is not the client's: AWS signature version 4.

A server refuses requests whose date is more than a quarter of an hour off. Where a test steps the clock of a whole machine, the
bucket's server, which can't be given another clock, sees the requests as if its clock had been stepped too.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<access>[^/]+)/\d{8}/(?P<region>[^/]+)/s3/aws4_request, ?"
    r"SignedHeaders=(?P<names>[^,]+), ?Signature=[0-9a-f]+"
)
STAMP = "%Y%m%dT%H%M%SZ"
CLOSE_S = 60.0


def signed_again(method: str, target: str, headers: Mapping[str, str], secret: str) -> dict[str, str]:
    """The headers with the true date and a signature for it; as they are when their date is right, or nothing is signed."""
    found = {name.lower(): value for name, value in headers.items()}
    match = AUTHORIZATION.fullmatch(found.get("authorization", ""))
    if match is None or "x-amz-date" not in found:
        return dict(headers)
    now = datetime.now(UTC)
    said = datetime.strptime(found["x-amz-date"], STAMP).replace(tzinfo=UTC)
    if abs((now - said).total_seconds()) < CLOSE_S:
        return dict(headers)
    found["x-amz-date"] = now.strftime(STAMP)
    names = match["names"].split(";")
    scope = f"{now:%Y%m%d}/{match['region']}/s3/aws4_request"
    text = "\n".join(
        ["AWS4-HMAC-SHA256", found["x-amz-date"], scope, _digest(_canonical(method, target, found, names))]
    )
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    found["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={match['access']}/{scope}, SignedHeaders={match['names']}, Signature={signature}"
    )
    return found


def _canonical(method: str, target: str, headers: Mapping[str, str], names: list[str]) -> str:
    parts = urlsplit(target)
    query = "&".join(sorted(p if "=" in p else f"{p}=" for p in parts.query.split("&") if p))
    lines = [f"{name}:{' '.join(headers[name].split())}" for name in names]
    return "\n".join(
        [
            method,
            parts.path,
            query,
            *lines,
            "",
            ";".join(names),
            headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ]
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
