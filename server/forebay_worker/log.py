"""Log lines for the launcher to relay: one JSON object a line on stderr. No token, prompt or text is ever logged."""

from __future__ import annotations

import json
import logging
import sys

_LEVELS = {"trace": "DEBUG", "debug": "DEBUG", "info": "INFO", "warn": "WARNING", "error": "ERROR", "off": "CRITICAL"}
_NAMES = {"WARNING": "warn", "CRITICAL": "error"}


class JsonFormatter(logging.Formatter):
    """Writes `level`, `target`, `message` and, where there is an exception, `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line without its end."""
        fields = {
            "level": _NAMES.get(record.levelname, record.levelname.lower()),
            "target": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def set_up_logging(level: str) -> None:
    """Send all logging of this process to stderr as JSON lines. Raises: ValueError on an unknown level."""
    if level not in _LEVELS:
        raise ValueError(f"log_level is `{level}`, expected one of {', '.join(_LEVELS)}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=_LEVELS[level], handlers=[handler], force=True)
    logging.captureWarnings(True)
