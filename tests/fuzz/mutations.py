"""Seeded damage to bytes: what disks, editors, exports and interrupted copies do to a file, and a little malice."""

from __future__ import annotations

import random
from collections.abc import Callable

TOKENS = (
    b"\0",
    b"\n",
    b"\r",
    b'"',
    b"\\",
    b",",
    b"\t",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b"null",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 400,
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 1500,
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\\ud800",
    b"\xe2\x80\xa8",
    b"</s>",
    b"<|im_end|>",
    b"\x1f\x8b",
    b"PAR1",
    b"ARROW1",
    b"",
)


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The content with one to four kinds of damage."""
    for _ in range(draw.randint(1, 4)):
        content = draw.choice(_DAMAGES)(content, draw)
    return content


def _place(content: bytes, draw: random.Random) -> int:
    return draw.randrange(len(content) + 1)


def _flip(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randint(1, 3) if changed else 0):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: _place(content, draw)]


def _lose(content: bytes, draw: random.Random) -> bytes:
    start = _place(content, draw)
    return content[:start] + content[start + draw.randint(1, 40) :]


def _repeat(content: bytes, draw: random.Random) -> bytes:
    start = _place(content, draw)
    return content[:start] + content[start : start + draw.randint(1, 200)] * draw.randint(2, 4) + content[start:]


def _insert(content: bytes, draw: random.Random) -> bytes:
    start = _place(content, draw)
    return content[:start] + draw.choice(TOKENS) + content[start:]


def _zero(content: bytes, draw: random.Random) -> bytes:
    start, length = _place(content, draw), draw.randint(1, 64)
    return content[:start] + bytes(min(length, len(content) - start)) + content[start + length :]


def _swap(content: bytes, draw: random.Random) -> bytes:
    """A word takes the place of another: a key of a value, a bracket of a number."""
    words = content.split(b'"')
    first, second = draw.randrange(len(words)), draw.randrange(len(words))
    words[first], words[second] = words[second], words[first]
    return b'"'.join(words)


def _other_encoding(content: bytes, draw: random.Random) -> bytes:
    return content.decode("utf-8", "replace").encode(draw.choice(("utf-16", "utf-16-le", "utf-32", "latin-1")), "replace")


_DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip,
    _flip,
    _cut,
    _lose,
    _repeat,
    _insert,
    _insert,
    _zero,
    _swap,
    _other_encoding,
)
