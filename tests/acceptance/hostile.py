"""Names and ids made to hurt: more than 200 of them, for every place where the product takes a name from outside.

Each holds `MARK`, where its length allows, so that a file which one of them made can be found wherever it lies.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

MARK = "h0stile"
REPOSITORY = Path(__file__).resolve().parents[2]
DEPTHS = (1, 9)
DEVICES = ("CON", "NUL", "COM1", "LPT9", "aux")


def _traversals() -> Iterator[str]:
    up = (
        "../",
        "..\\",
        "..//",
        "..././",
        "....//",
        "..;/",
        "%2e%2e/",
        "%2e%2e%2f",
        "..%2f",
        "..%5c",
        "%252e%252e%252f",
    )
    for step in (*up, "%c0%ae%c0%ae/", "%u002e%u002e/", "．．/", "..／", "‥/", "․․/", "..\u2215", "..\u29f8"):
        for depth in DEPTHS:
            yield step * depth + MARK
    for inner in ("a/../../", "./../", "x\\..\\..\\", "/./../", "~/../", "~root/"):
        yield inner + MARK
    yield from (".", "..", "...", "./", "../", "/", "//", "\\", "\\\\", "~", "-", "--", " ", "\t")


def _absolutes() -> Iterator[str]:
    for head in (
        "/",
        "//",
        "/tmp/",
        "/etc/cron.d/",
        "/proc/self/root/tmp/",
        "/dev/shm/",
        "C:\\",
        "C:/",
        "C:",
        "Z:\\tmp\\",
    ):
        yield head + MARK
    for head in (
        "\\\\127.0.0.1\\share\\",
        "\\\\?\\C:\\",
        "\\\\.\\pipe\\",
        "file:///tmp/",
        "file://",
        "http://127.0.0.1:9/",
    ):
        yield head + MARK
    for head in ("ftp://127.0.0.1/", "s3://bucket/", "data:,", "jar:file:///tmp/", "gopher://127.0.0.1:9/"):
        yield head + MARK


def _controls() -> Iterator[str]:
    for code in (1, 7, 8, 9, 10, 11, 12, 13, 26, 27, 31, 0x7F, 0x80, 0x85, 0x9F):
        yield f"{MARK}{chr(code)}x"
    yield from (f"\0{MARK}", f"{MARK}\0", f"{MARK}.csv\0.exe", f"{MARK}%00.csv", f"{MARK}%2500")
    yield from (
        f"{MARK}\r\nSet-Cookie: a=b",
        f"{MARK}\nX: y",
        f"{MARK}%0d%0aX:%20y",
        f"{MARK}\r\n\r\n<html>",
        f"{MARK}\x1b[2J",
    )


def _devices() -> Iterator[str]:
    for name in DEVICES:
        yield from (name, f"{name}.{MARK}", f"{name}.csv", f"{name} .csv", f"{name}::$DATA")


def _letters() -> Iterator[str]:
    invisible = "\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2069\ufeff\u00ad\u061c"
    yield from (f"{MARK}{char}vsc.exe" for char in invisible)
    yield from (
        f"{MARK}\u2028x",
        f"{MARK}\u2029x",
        f"{MARK}\ufffd",
        f"{MARK}\uffff",
        f"{MARK}\U000e0041",
        f"{MARK}\ue000",
    )
    yield from (f"{MARK}{'e' + chr(0x301) * count}" for count in (1, 2, 60))
    yield from (f"{MARK}é", unicodedata.normalize("NFD", f"{MARK}é"), f"{MARK}ﬁ", f"{MARK}İı", f"{MARK}ß", f"{MARK}Å")
    yield from (
        f"{MARK}💩",
        f"{MARK}👩‍👩‍👧‍👦",
        f"{MARK}🇩🇪",
        f"{MARK}𝕏",
        f"{MARK}مرحبا",
        f"{MARK}שלום",
        f"{MARK}事故",
        f"{MARK}ｃｓｖ",
    )
    yield from (
        f"{MARK}．csv",
        f"{MARK}․csv",
        f"{MARK}。csv",
        f"{MARK}\u3000",
        f"\u00a0{MARK}",
        f"{MARK}\udc80",
        f"{MARK}\ud800",
    )


def _lengths() -> Iterator[str]:
    for length in (201, 255, 256, 300, 1_023, 3_000):
        yield MARK + "n" * (length - len(MARK))
    yield from (
        "é" * 150,
        "💩" * 75,
        f"{'a/' * 150}{MARK}",
        f"{'../' * 100}{MARK}",
        f".{'n' * 254}",
        f"{MARK}.{'c' * 254}",
    )


def _words() -> Iterator[str]:
    yield from (
        f"{MARK}{{{{7*7}}}}",
        f"{MARK}{{0.__class__}}",
        f"{MARK}${{jndi:ldap://127.0.0.1:9/a}}",
        f"{MARK}%s%n%x",
    )
    yield from (
        f"{MARK}' OR '1'='1",
        f"{MARK}'; DROP TABLE jobs;--",
        f'{MARK}"; rm -rf x',
        f"{MARK}`id`",
        f"{MARK}$(id)",
    )
    yield from (
        f"{MARK}|id",
        f"{MARK};id",
        f"{MARK}&id",
        f"{MARK}>x",
        f"{MARK}<script>alert(1)</script>",
        f"<!--{MARK}-->",
    )
    yield from (
        f"={MARK}|' /C calc'!A0",
        f"+{MARK}",
        f"@{MARK}",
        f"-{MARK}",
        f"--{MARK}=1",
        f"{MARK}*",
        f"{MARK}?",
        f"[{MARK}]",
    )
    yield from (
        f"{MARK}#x",
        f"{MARK}?a=b",
        f"{MARK};a=b",
        f"{MARK}%",
        f"{MARK}%zz",
        f"{MARK}%e0%80",
        f'{MARK}"',
        f"{MARK}\\",
    )
    yield from (
        f"{MARK}.",
        f"{MARK} ",
        f" {MARK}",
        f".{MARK}",
        f"{MARK}..csv",
        f".{MARK}.csv",
        f"{MARK}:stream",
        f"{MARK}~1",
    )
    yield from ("__proto__", "constructor", "__init__", "os", "null", "None", "true", "0", "-1", "1e999", "NaN", "")


NAMES: tuple[str, ...] = tuple(
    dict.fromkeys(
        name
        for family in (_traversals(), _absolutes(), _controls(), _devices(), _letters(), _lengths(), _words())
        for name in family
    )
)
"""The names, each once, in a fixed order."""


def raw(name: str) -> bytes:
    """A name as the bytes of a header or a form, lone surrogates as the bytes that they stand for."""
    return name.encode("utf-8", "surrogatepass")


def in_paths(name: str) -> list[str]:
    """A name as one segment of a request's address: encoded, encoded twice, and bare where HTTP allows it."""
    once = quote(raw(name), safe="")
    bare = name if name.isascii() and name.isprintable() and not set(name) & set(' ?#"<>\\^`{|}') else once
    return list(dict.fromkeys((once, quote(once, safe=""), bare)))


def can_lie_in(folder: Path, name: str) -> bool:
    """Whether the system itself lets a file of this name be made in that very folder, and nowhere else."""
    return bool(name) and name not in {".", ".."} and not set(name) & {"/", "\0"} and _fits(folder, name)


def _fits(folder: Path, name: str) -> bool:
    try:
        (folder / name).lstat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return False


def strays(root: Path) -> list[Path]:
    """Whatever bears the mark in a folder above the root, or where absolute and temp names would have led."""
    places = [*root.resolve().parents, Path("/dev/shm"), Path("/etc/cron.d"), Path.home(), REPOSITORY]
    return [found for place in places if place.is_dir() for found in _marked(place.iterdir())]


def _marked(paths: Iterable[Path]) -> Iterator[Path]:
    return (path for path in paths if MARK in path.name)
