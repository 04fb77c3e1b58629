"""What the web shop is made of: its pages, goods, words, countries, devices and bots. Only data and shares."""

from __future__ import annotations

HOST = "https://shop.example.com"

COUNTRIES: tuple[tuple[str, float, int], ...] = (
    # code, share of visitors, hours from UTC
    ("US", 0.26, -6),
    ("DE", 0.10, 1),
    ("GB", 0.09, 0),
    ("IN", 0.09, 5),
    ("BR", 0.07, -3),
    ("FR", 0.06, 1),
    ("JP", 0.06, 9),
    ("VN", 0.05, 7),
    ("CA", 0.04, -5),
    ("IT", 0.03, 1),
    ("ES", 0.03, 1),
    ("AU", 0.03, 10),
    ("NL", 0.02, 1),
    ("KR", 0.02, 9),
    ("PL", 0.01, 1),
    ("SE", 0.01, 1),
    ("MX", 0.01, -6),
    ("ID", 0.01, 7),
    ("NG", 0.005, 1),
    ("NZ", 0.005, 12),
)

HOUR_WEIGHTS: tuple[float, ...] = (
    # how busy each local hour is, the mean of the day being 1: a low at 4, a hump at noon, a high at 20
    *(0.45, 0.30, 0.22, 0.18, 0.17, 0.22, 0.38, 0.62, 0.88, 1.08, 1.20, 1.28),
    *(1.34, 1.28, 1.20, 1.18, 1.22, 1.32, 1.50, 1.75, 1.90, 1.75, 1.38, 0.90),
)

_MOZILLA = "Mozilla/5.0"
_CHROME = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0"
_SAFARI = "AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.2"
_WINDOWS = f"{_MOZILLA} (Windows NT 10.0; Win64; x64) {_CHROME} Safari/537.36"

DEVICES: tuple[tuple[str, str, float, str], ...] = (
    # device type, browser, share, user agent
    ("mobile", "Chrome", 0.28, f"{_MOZILLA} (Linux; Android 15; Pixel 9) {_CHROME} Mobile Safari/537.36"),
    ("mobile", "Safari", 0.24, f"{_MOZILLA} (iPhone; CPU iPhone OS 18_2 like Mac OS X) {_SAFARI} Mobile/15E148"),
    ("desktop", "Chrome", 0.24, _WINDOWS),
    ("desktop", "Edge", 0.06, f"{_WINDOWS} Edg/142.0.0.0"),
    ("desktop", "Firefox", 0.06, f"{_MOZILLA} (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"),
    ("desktop", "Safari", 0.06, f"{_MOZILLA} (Macintosh; Intel Mac OS X 10_15_7) {_SAFARI} Safari/605.1.15"),
    ("tablet", "Safari", 0.06, f"{_MOZILLA} (iPad; CPU OS 18_1 like Mac OS X) {_SAFARI} Safari/604.1"),
)

BOTS: tuple[tuple[str, str], ...] = (
    # browser, user agent
    ("Googlebot", "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"),
    ("bingbot", "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)"),
    ("AhrefsBot", "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)"),
    ("python-requests", "python-requests/2.34.2"),
)

REFERRERS: tuple[tuple[str, float], ...] = (
    # where a session comes from; "" is typed in or from a bookmark
    ("https://www.google.com/", 0.42),
    ("", 0.30),
    ("https://www.bing.com/", 0.05),
    ("https://www.instagram.com/", 0.08),
    ("https://www.youtube.com/", 0.06),
    ("https://news.ycombinator.com/", 0.02),
    ("https://mail.example.com/newsletter?utm_source=newsletter&utm_medium=email&utm_campaign=weekly", 0.07),
)

CATEGORIES: tuple[tuple[str, float, float], ...] = (
    # category, share of the goods, median price
    ("electronics", 0.25, 120.0),
    ("clothing", 0.30, 35.0),
    ("home", 0.20, 48.0),
    ("books", 0.15, 14.0),
    ("toys", 0.10, 22.0),
)

PRODUCTS = 500

SEARCHES: tuple[str, ...] = (
    *("headphones", "running shoes", "usb-c cable", "desk lamp", "coffee grinder", "winter jacket", "board game"),
    *("mechanical keyboard", "t-shirt", "backpack", "cookbook", "toy train", "monitor 27", "raincoat", "bicycle light"),
    *("gift", "sale", "wool socks", "tea pot", "science fiction"),
)

ERRORS: tuple[tuple[str, str, float], ...] = (
    # code, message, share
    ("500", "checkout: payment provider did not answer", 0.25),
    ("404", "page not found", 0.45),
    ("TypeError", "Cannot read properties of undefined (reading 'price')", 0.20),
    ("429", "too many searches", 0.10),
)

STATES: tuple[str, ...] = ("landing", "category", "product", "search", "add_to_cart", "checkout", "purchase", "error")
EVENT_TYPES: dict[str, str] = {
    "landing": "page_view",
    "category": "page_view",
    "product": "page_view",
    "search": "search",
    "add_to_cart": "add_to_cart",
    "checkout": "checkout",
    "purchase": "purchase",
    "error": "error",
}
NEXT: dict[str, dict[str, float]] = {
    # from a state to the next one; what is missing to 1 ends the session
    "landing": {"category": 0.34, "product": 0.16, "search": 0.16, "error": 0.01},
    "category": {"product": 0.55, "category": 0.18, "search": 0.05, "error": 0.01},
    "product": {"product": 0.28, "category": 0.20, "add_to_cart": 0.14, "search": 0.10, "error": 0.01},
    "search": {"product": 0.58, "search": 0.14, "category": 0.08, "error": 0.02},
    "add_to_cart": {"product": 0.30, "checkout": 0.38, "category": 0.17, "error": 0.01},
    "checkout": {"purchase": 0.62, "product": 0.10, "error": 0.04},
    "purchase": {"landing": 0.12, "category": 0.10},
    "error": {"landing": 0.30, "category": 0.20, "checkout": 0.10},
}
