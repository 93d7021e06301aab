"""What holds for every test: how long an example takes, and how large it grows, is no reason to fail.

Hypothesis times its generators and its examples by the clock, so that a busy machine would decide whether they pass.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "clockless", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("clockless")
