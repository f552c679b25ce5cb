"""Settings whose CHANNEL_LAYERS are JSON in the environment."""

from __future__ import annotations

import json
import os

SECRET_KEY = "for tests only"
USE_TZ = True
INSTALLED_APPS = ["channels", "channels_rabbitmq"]
CHANNEL_LAYERS = json.loads(os.environ["CHANNEL_LAYERS"])
