"""Random changes of the bytes of a file."""

import random
import re

NUMBERS = [b"99999999999", b"-1", b"1e999", b"nan", b"0", b"18446744073709551615", b"9" * 5000]
BYTES = [b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff" * 7 + b"\x7f"]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A copy with a few changes of one kind."""
    data = bytearray(data)
    kind = rng.choice(["byte", "bytes", "cut out", "insert", "repeat", "number", "truncate"])
    for _ in range(rng.choice([1, 1, 2, 5])):
        if not data:
            break
        place = rng.randrange(rng.choice([len(data), min(len(data), 200)]))
        if kind == "byte":
            data[place] = rng.randrange(256)
        elif kind == "bytes":
            new = rng.choice(BYTES)
            data[place : place + len(new)] = new
        elif kind == "cut out":
            del data[place : place + rng.randrange(1, 40)]
        elif kind == "insert":
            data[place:place] = rng.randbytes(rng.randrange(1, 9))
        elif kind == "repeat":
            start = rng.randrange(len(data))
            data[place:place] = data[start : start + rng.randrange(1, 200)]
        elif kind == "number":
            numbers = list(re.finditer(rb"\d+", data[place : place + 400]))
            if numbers:
                found = rng.choice(numbers)
                data[place + found.start() : place + found.end()] = rng.choice(NUMBERS)
        else:
            data = data[:place]
    return bytes(data)
