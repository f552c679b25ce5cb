"""Django's command line for the project of tests/soak."""

from __future__ import annotations

import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "soaked.settings")
execute_from_command_line(sys.argv)
