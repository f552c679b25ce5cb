"""Django's command line for a project whose layers the environment describes."""

from __future__ import annotations

import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_of_layers.settings")

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
