"""Where the Redis is that processes share, and how to get in. Plain data: it travels to other processes."""

from __future__ import annotations

import msgspec

from rta.config import Settings, parse_redis


class RedisSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One Redis. Its `repr` shows no secret."""

    host: str
    port: int
    database: int
    tls: bool
    username: str | None
    password: str | None

    @property
    def name(self) -> str:
        """How messages call it: nothing secret."""
        return f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.database}"

    def __repr__(self) -> str:
        return f"RedisSettings({self.name})"


def redis_settings(settings: Settings) -> RedisSettings | None:
    """What `redis` and its password say; None without one."""
    if settings.redis is None:
        return None
    place = parse_redis(settings.redis)
    password = settings.redis_password
    return RedisSettings(
        host=place.host,
        port=place.port,
        database=place.database,
        tls=place.tls,
        username=place.username,
        password=None if password is None else password.get_secret_value(),
    )
