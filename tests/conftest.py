"""Settings of all tests."""

import os

from hypothesis import settings

# No test needs a hub; without this, one that names a model that is nowhere waits for retries.
os.environ["HF_HUB_OFFLINE"] = "1"

# A busy machine is no failure: how long an example takes says nothing about what it proves.
settings.register_profile("any speed", deadline=None)
settings.load_profile("any speed")
