"""Settings of hypothesis for this room."""

from hypothesis import settings

# Kernels are compiled when they are first called, which takes seconds.
settings.register_profile("compiling", deadline=None)
settings.load_profile("compiling")
