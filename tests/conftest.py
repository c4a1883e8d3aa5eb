"""Settings of all tests."""

from hypothesis import settings

# A busy machine is no failure: how long an example takes says nothing about what it proves.
settings.register_profile("any speed", deadline=None)
settings.load_profile("any speed")
