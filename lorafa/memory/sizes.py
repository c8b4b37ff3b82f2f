"""Sizes of memory as people write them."""

import re

GIB = 2**30
UNITS = {"GiB": GIB, "MiB": 2**20, "GB": 10**9, "MB": 10**6}


def bytes_of(text: str) -> int:
    """Bytes of a size such as 24GiB, 80GB or 512MiB.

    Raises:
        ValueError: It is not one.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([GM]i?B)", text)
    if match is None or float(match[1]) == 0:
        raise ValueError(f"{text!r} is not a size like 24GiB or 80GB")
    return round(float(match[1]) * UNITS[match[2]])
