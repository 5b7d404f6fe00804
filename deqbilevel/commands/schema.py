"""Values of JSON against a schema: a value like them, in which kinds stand for values.

    {"method": "", "budget": 0, "seconds": 0.0, "loss": [ANY], "diverged": False}

"" stands for text, 0 for whole numbers of 0 or more, 0.0 for finite ones, ANY for any number or
null, [x] and {"name": x} for lists and objects of such. Further names may be there.
"""

import json
import math
from typing import Any

ANY = math.nan
"""A number that may be null, or not finite."""


def fault(value: Any, schema: Any, name: str = "") -> str:
    """What makes a value of JSON unlike those of a schema; "" if nothing does."""
    called = name or "the record"
    match schema:
        case dict():
            if not isinstance(value, dict):
                return _unless(False, value, called, "an object")
            missing = [key for key in schema if key not in value]
            if missing:
                return f"{called} has no {', '.join(missing)}"
            inside = ((value[k], kind, f"{name}.{k}".strip(".")) for k, kind in schema.items())
            return next((wrong for entry in inside if (wrong := fault(*entry))), "")
        case [kind]:
            if not isinstance(value, list):
                return _unless(False, value, called, "a list")
            found = (fault(entry, kind, f"an entry of {called}") for entry in value)
            return next((wrong for wrong in found if wrong), "")
        case bool():
            return _unless(isinstance(value, bool), value, called, "true or false")
        case str():
            return _unless(isinstance(value, str), value, called, "a text")
        case int():
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
            return _unless(whole, value, called, "a whole number, 0 or more")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if math.isnan(schema):
        return _unless(number or value is None, value, called, "a number")
    return _unless(number and math.isfinite(value), value, called, "a finite number")


def _unless(right: bool, value: Any, called: str, expected: str) -> str:
    text = json.dumps(value)
    shown = text if len(text) < 40 else f"{text[:36]}..."
    return "" if right else f"{called} is {shown}, not {expected}"
