"""String columns made up to be hard for a detector of formats: long tails, optional parts, free text, mixed conventions.

`column(name, size, seed)` draws a clean column; `with_faults` breaks some of its values the way exports and people do.
"""

from __future__ import annotations

import json
import string
import uuid
from base64 import b64encode
from collections.abc import Callable
from datetime import date, timedelta
from random import Random

from training.pattern_faults import FAULTS

WORDS = (
    "time", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state", "family",
    "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company", "system", "program",
    "question", "work", "government", "number", "night", "point", "home", "water", "room", "mother", "area", "money",
    "story", "fact", "month", "lot", "right", "study", "book", "eye", "job", "word", "business", "issue", "side", "kind",
    "head", "house", "service", "friend", "father", "power", "hour", "game", "line", "end", "member", "law", "car",
    "city", "community", "name", "president", "team", "minute", "idea", "kid", "body", "information", "back", "parent",
    "face", "others", "level", "office", "door", "health", "person", "art", "war", "history", "party", "result", "change",
    "morning", "reason", "research", "girl", "guy", "moment", "air", "teacher", "force", "education",
)
GIVEN = (
    "Anna", "Ben", "Carla", "David", "Emma", "Finn", "Greta", "Hans", "Ida", "Jonas", "Zoë", "José", "María", "Søren",
    "Łukasz", "Çelik", "Ángel", "Noël", "Renée", "Šárka", "Jürgen", "Björn", "Đorđe", "Ömer", "Élodie", "Siân", "Nuño",
    "Jean-Luc", "Anne-Marie", "伟", "さくら", "Олег", "Ирина", "Γιώργος",
)
FAMILY = (
    "Smith", "Müller", "García", "Nguyen", "O'Brien", "MacDonald", "Fernández", "Öztürk", "Novák", "Østergaard",
    "Lefèvre", "Peña", "Kowalska", "Ivanov", "Петров", "王", "田中", "Papadopoulos", "D'Angelo", "St.John", "Gräßle",
    "Åkesson", "Wójcik", "Brontë", "van-Dijk", "Jones", "Brown", "Wilson", "Taylor", "Schmidt",
)
HOSTS = (
    "example.com", "www.example.org", "blog.example.net", "docs.sample.io", "shop.test.co.uk", "news.site.de",
    "cdn2.assets.net", "api-v3.host.com", "en.wiki.org", "media.example.com",
)

CITIES = (
    "Berlin", "New York", "São Paulo", "Zürich", "Los Angeles", "St. Louis", "Aix-en-Provence", "Winston-Salem", "Paris",
    "Rome", "Frankfurt (Oder)", "Łódź", "Salt Lake City", "Oslo", "Bad Tölz", "Coeur d'Alene", "Köln", "Madrid",
    "Rio de Janeiro", "Washington, D.C.",
)


def column(name: str, size: int, seed: int) -> list[str]:
    """(size,) clean values of a column of this kind; the same for the same seed."""
    random = Random(f"{name}:{seed}")
    return [COLUMNS[name](random) for _ in range(size)]


def with_faults(values: list[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """The column with about `share` of its values broken, and for each value the kind of fault, "" where it is as it was."""
    random = Random(f"faults:{seed}")
    broken, kinds = [], []
    for value in values:
        kind = random.choice(tuple(FAULTS)) if random.random() < share else ""
        damaged = FAULTS[kind](random, value) if kind else None
        broken.append(value if damaged is None else damaged)
        kinds.append("" if damaged is None else kind)
    return broken, kinds


def _word(r: Random) -> str:
    # A few words make up most of a text: rank by a power law.
    return WORDS[min(int(len(WORDS) * r.random() ** 2), len(WORDS) - 1)]


def _slug(r: Random, separator: str = "-") -> str:
    return separator.join(_word(r) for _ in range(r.choice((1, 1, 2, 2, 3, 4, 5))))


def _digits(r: Random, n: int) -> str:
    return "".join(r.choice(string.digits) for _ in range(n))


def _day(r: Random) -> date:
    return date(2015, 1, 1) + timedelta(days=r.randrange(3600))


def _maybe(r: Random, chance: float, text: str) -> str:
    return text if r.random() < chance else ""


def _url(r: Random) -> str:
    path = "".join("/" + r.choice((_slug(r), _slug(r), _digits(r, r.randint(1, 5)), _slug(r, "_"), _word(r).title()))
                   for _ in range(r.choice((0, 1, 1, 2, 2, 3, 4))))
    ending = r.choice(("", "", "/", ".html", ".php", f"?id={_digits(r, r.randint(1, 6))}",
                       f"?q={_slug(r, '+')}&p={r.randint(1, 20)}", f"#{_word(r)}"))
    return f"{r.choice(('http', 'https', 'https'))}://{r.choice(HOSTS)}{path}{ending}"


def _article(r: Random) -> str:
    return f"https://www.example.com/{_day(r):%Y/%m/%d}/{_slug(r)}-{_digits(r, 6)}.html"


def _email(r: Random) -> str:
    name = r.choice((_word(r), f"{_word(r)}.{_word(r)}", f"{_word(r)[0]}{_word(r)}", f"{_word(r)}_{_word(r)}",
                     f"{_word(r)}{r.randint(1, 99)}"))
    host = r.choice(("gmail.com", "mail.com", "example.org", "uni-site.de", "firm.co.uk", "x1.io", "dept.school.edu"))
    return f"{name}@{host}"


def _issn(r: Random) -> str:
    first = f"{_digits(r, 4)}-{_digits(r, 3)}{r.choice('0123456789X')}"
    return first + (f", {_digits(r, 4)}-{_digits(r, 4)}" if r.random() < 0.04 else "")


def _pages(r: Random) -> str:
    first = r.choice((r.randint(1, 99), r.randint(100, 999), r.randint(100, 999), r.randint(1000, 3999)))
    last = first + r.randint(1, 25)
    kind = r.random()
    if kind < 0.12:
        return str(first)
    if kind < 0.17:
        letter = r.choice("eSRLAN")
        return f"{letter}{first}-{letter}{last}" if r.random() < 0.6 else f"{letter}{first}"
    if kind < 0.19:
        return f"{first}-{last}, {last + 3}" if r.random() < 0.5 else f"{first}-{last}; discussion {last + 1}"
    if kind < 0.6:  # 1024-31: only the digits that change
        a, b = str(first), str(last)
        same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), 0) if len(a) == len(b) else 0
        return f"{a}-{b[same:]}"
    return f"{first}-{last}"


def _roman(r: Random) -> str:
    return r.choice(("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii", "xiv", "xix"))


def _identifier(r: Random) -> str:
    return f"{r.choice(('ORD', 'RET', 'INV'))}-{r.randint(1, 10 ** r.randint(3, 7))}"


def _stock(r: Random) -> str:
    return r.choice((f"{_word(r)[:3].upper()}{_digits(r, r.randint(2, 5))}",
                     f"{_digits(r, 3)}-{_word(r)[:2].upper()}-{_digits(r, r.randint(1, 4))}",
                     f"{_word(r)[:4].upper()}/{_digits(r, 2)}{r.choice('ABCX')}"))


def _name(r: Random) -> str:
    return f"{r.choice(GIVEN)} {_maybe(r, 0.15, r.choice(string.ascii_uppercase) + '. ')}{r.choice(FAMILY)}"


def _version(r: Random) -> str:
    number = ".".join(str(r.randint(0, 20)) for _ in range(r.choice((2, 3, 3, 3, 4))))
    return number + r.choice(("", "", "", "", f"-rc{r.randint(1, 9)}", f"-beta.{r.randint(1, 12)}", f"+{_digits(r, 6)}",
                              "a1", ".post2", ".dev0"))


def _two_dates(r: Random) -> str:
    return f"{_day(r):%Y-%m-%d}" if r.random() < 0.7 else f"{_day(r):%d/%m/%Y}"


def _american_date(r: Random) -> str:
    day = _day(r)
    return f"{day.month}/{day.day}/{day:%y}"


def _spoken_date(r: Random) -> str:
    day = _day(r)
    return f"{day:%B} {day.day}, {day.year}" if r.random() < 0.9 else f"{day:%b} {day.year}"


def _money(r: Random) -> str:
    amount = 10 ** r.uniform(0, 6)
    return f"${amount:,.2f}" if r.random() < 0.9 else f"-${amount:,.2f}"


def _json(r: Random) -> str:
    return json.dumps({_word(r): r.choice((r.randint(0, 9999), True, None, _word(r))) for _ in range(r.randint(1, 4))})


def _text(r: Random) -> str:
    words = [_word(r) + _maybe(r, 0.1, r.choice(",;:")) for _ in range(r.randint(3, 18))]
    return " ".join(words).capitalize() + r.choice((".", ".", "!", "?", ""))


def _title(r: Random) -> str:
    words = (_word(r).title() if r.random() < 0.8 else _word(r) for _ in range(r.randint(2, 9)))
    return " ".join(words) + _maybe(r, 0.1, f" ({_digits(r, 4)})")


def _address(r: Random) -> str:
    street = f"{r.randint(1, 9999)} {_maybe(r, 0.2, r.choice('NSEW') + ' ')}{_word(r).title()}"
    unit = r.choice((f" Apt {r.randint(1, 99)}", f" #{r.randint(1, 40)}{r.choice('ABC')}", f", Suite {r.randint(100, 900)}"))
    return f"{street} {r.choice(('St', 'Ave', 'Blvd', 'Rd', 'Ln', 'Dr.'))}{_maybe(r, 0.15, unit)}"


def _path(r: Random) -> str:
    parts = "".join("/" + _slug(r, r.choice("-_")) for _ in range(r.randint(1, 5)))
    return parts + r.choice(("", ".txt", ".tar.gz", ".py", f".{r.randint(1, 9)}"))


def _phone(r: Random) -> str:
    a, b, c = _digits(r, 3), _digits(r, 3), _digits(r, 4)
    forms = (f"({a}) {b}-{c}", f"{a}-{b}-{c}", f"+1 {a} {b} {c}", f"{a}{b}{c}", f"{a}-{b}-{c} x{r.randint(1, 999)}")
    return r.choices(forms, (60, 25, 8, 5, 2))[0]


def _city(r: Random) -> str:
    return r.choice((*CITIES, _word(r).title(), f"{_word(r).title()} {r.choice(('City', 'Falls', 'Park'))}"))


def _author_list(r: Random) -> str:
    return "; ".join(f"{r.choice(FAMILY)}, {_initial(r)}{_maybe(r, 0.4, _initial(r))}" for _ in range(r.randint(1, 6)))


def _initial(r: Random) -> str:
    return f"{r.choice(string.ascii_uppercase)}."


def _doi(r: Random) -> str:
    ending = r.choice((f"{_word(r)}.{_digits(r, r.randint(3, 8))}", f"s{_digits(r, 5)}-{_digits(r, 3)}"))
    return f"10.{_digits(r, 4)}/{ending}"


def _duration(r: Random) -> str:
    return r.choice((f"{r.randint(1, 59)} min", f"{r.randint(1, 3)} hr. {r.randint(1, 59)} min.", f"{r.randint(1, 4)} hr."))


COLUMNS: dict[str, Callable[[Random], str]] = {
    "url": _url,
    "article_url": _article,
    "email": _email,
    "issn": _issn,
    "pages": _pages,
    "roman": _roman,
    "identifier": _identifier,
    "stock_code": _stock,
    "name": _name,
    "authors": _author_list,
    "version": _version,
    "two_dates": _two_dates,
    "american_date": _american_date,
    "spoken_date": _spoken_date,
    "money": _money,
    "decimal": lambda r: f"{r.gauss(0, 30):.{r.randint(0, 4)}f}",
    "percent": lambda r: f"{r.randint(0, 100)}%" if r.random() < 0.95 else f"{r.uniform(0, 100):.1f}%",
    "json": _json,
    "text": _text,
    "title": _title,
    "address": _address,
    "path": _path,
    "phone": _phone,
    "city": _city,
    "uuid": lambda r: str(uuid.UUID(int=r.getrandbits(128))),
    "hex": lambda r: f"{r.getrandbits(r.choice((32, 64))):x}",
    "base64": lambda r: b64encode(r.randbytes(r.choice((6, 9, 12)))).decode(),
    "ip": lambda r: ".".join(str(r.randint(0, 255)) for _ in range(4)),
    "doi": _doi,
    "duration": _duration,
    "coordinates": lambda r: f"{r.uniform(-90, 90):.4f}, {r.uniform(-180, 180):.4f}",
    "measure": lambda r: f"{r.randint(1, 40)}{r.choice(('', '.5', '.0'))} {r.choice(('oz', 'oz.', 'ml', 'kg'))}",
}
