"""Run management commands of the project, such as runworker."""

import os
import signal
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "thumbnails.settings")
# A service manager's SIGTERM ends runworker as Ctrl-C does, and not in the midst of an order.
signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
execute_from_command_line(sys.argv)
