"""What a connection is called: in RabbitMQ's management, in its consumers' tags, in log lines."""

from __future__ import annotations

import itertools
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import PurePath

from django.conf import settings

#: Most characters of a project's or a program's name.
_MOST = 64

#: Which layers of this process have which numbers, where they would have the same name. Each use
#: is one step of the interpreter, as a number may be given back between any two.
_numbers: dict[tuple[str | None, int], object] = {}


class ConnectionName:
    """The name of one layer's connections; its text is made anew each time it is asked for.

    Without one that was ``given`` it is ``project/program@host:pid``. The process id is that of the
    process that asks, so that a forked child has a name of its own.
    """

    def __init__(self, given: str | None = None) -> None:
        #: The option ``connection_name``.
        self.given = given
        self._program = program(sys.argv)
        #: Which of the process's layers of this name it is; the first is not numbered.
        self._number = 1
        #: What it holds its number by.
        self._token = object()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConnectionName) and other.given == self.given

    def __hash__(self) -> int:
        return hash(self.given)

    def __repr__(self) -> str:
        return f"<ConnectionName {self}>"

    def __str__(self) -> str:
        name = self.given or self._make()
        return name if self._number == 1 else f"{name} #{self._number}"

    def take_number(self) -> None:
        """Tell this layer from others of the process that have the same name: the least is free."""
        for number in itertools.count(1):
            if _numbers.setdefault((self.given, number), self._token) is self._token:
                self._number = number
                return

    def give_number_back(self) -> None:
        """Leave the number to another layer, as this one has ended. May be called again."""
        key = (self.given, self._number)
        if _numbers.get(key) is self._token:
            _numbers.pop(key, None)

    def _make(self) -> str:
        parts = [_plain(part)[:_MOST] for part in (project(), self._program) if part]
        return f"{'/'.join(parts)}@{_plain(socket.gethostname())}:{os.getpid()}"


def project() -> str:
    """The package of the settings; empty where Django is used without a settings module."""
    module: str | None = settings.SETTINGS_MODULE if settings.configured else None
    return (module or "").partition(".")[0]


def program(argv: Sequence[str]) -> str:
    """What runs, from its command line: ``daphne``, ``celery``, ``runworker``.

    Of ``manage.py`` and ``django-admin`` that is the command; of ``python -m`` the module.
    """
    path = PurePath(argv[0]) if argv else PurePath()
    name = path.parent.name if path.name == "__main__.py" else path.name
    command = argv[1] if len(argv) > 1 else ""
    if name in ("manage.py", "django-admin", "django") and command.isidentifier():
        return command
    return name.removesuffix(".py") if name not in ("", "-c", "-m", "-") else "python"


def _plain(text: str) -> str:
    """Keep to the characters that a name may have."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)
