"""A logger whose lines begin with the name of the connection that they are about."""

from __future__ import annotations

import logging

__all__ = ["NamedLogger"]


class NamedLogger:
    """Logs each line as ``[name] line``, and has the name in the record's ``connection_name``.

    The name is turned into text when a line is logged, not before; an empty one is left out. It is
    an argument of the record, so that error trackers see one line for all connections.
    """

    __slots__ = ("_logger", "_name")

    def __init__(self, logger: logging.Logger, name: object = "") -> None:
        self._logger = logger
        self._name = name

    def debug(self, text: str, *args: object) -> None:
        """Log ``text % args`` at level DEBUG."""
        self._write(logging.DEBUG, text, args)

    def info(self, text: str, *args: object) -> None:
        """Log ``text % args`` at level INFO."""
        self._write(logging.INFO, text, args)

    def warning(self, text: str, *args: object) -> None:
        """Log ``text % args`` at level WARNING."""
        self._write(logging.WARNING, text, args)

    def error(self, text: str, *args: object, error: BaseException) -> None:
        """Log ``text % args`` at level ERROR, with the traceback of ``error``."""
        self._write(logging.ERROR, text, args, error)

    def exception(self, text: str, *args: object) -> None:
        """Log ``text % args`` at level ERROR, with the traceback of what is being handled."""
        self._write(logging.ERROR, text, args, True)

    def _write(
        self,
        level: int,
        text: str,
        args: tuple[object, ...],
        error: BaseException | bool | None = None,
    ) -> None:
        if not self._logger.isEnabledFor(level):
            return
        name = str(self._name)
        if name:
            text, args = f"[%s] {text}", (name, *args)
        # The line is about the caller's caller.
        extra = {"connection_name": name}
        self._logger.log(level, text, *args, exc_info=error, stacklevel=3, extra=extra)
