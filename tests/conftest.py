"""Settings of all tests."""

from hypothesis import settings

settings.register_profile("fluidwait", deadline=None)  # a slow machine is no failure: nothing here tests time
settings.load_profile("fluidwait")
