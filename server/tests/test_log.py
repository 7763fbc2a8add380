"""Log lines as the launcher reads them."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from forebay_worker.log import JsonFormatter, set_up_logging


def test_a_line_is_one_json_object_with_the_traceback_inside():
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("target", logging.WARNING, "", 0, "said %d", (3,), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    fields = json.loads(line)
    assert (fields["level"], fields["target"], fields["message"]) == ("warn", "target", "said 3")
    assert fields["traceback"].endswith("ValueError: two\nlines")


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="log_level is `loud`"):
        set_up_logging("loud")
