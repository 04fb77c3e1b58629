"""For all tests: what a property may take depends on what else runs here, so that only the whole test has a limit."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("rta", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rta")
