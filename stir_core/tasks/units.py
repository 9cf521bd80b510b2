"""Words and signs beside a value: units and currencies, which may be left out, and words that change the value, which may not."""

import re
from fractions import Fraction

_SPELLINGS = {
    "um": "um|micromet(?:er|re)s?|microns?",
    "mm": "mm|millimet(?:er|re)s?",
    "cm": "cm|centimet(?:er|re)s?",
    "m": "m|mtr|met(?:er|re)s?",
    "km": "kms?|kilomet(?:er|re)s?",
    "in": "in|inch(?:es)?",
    "ft": "ft|foot|feet",
    "yd": "yds?|yards?",
    "mi": "mi|miles?",
    "s": "s|secs?|seconds?",
    "min": "mins?|minutes?",
    "h": "hr?s?|hours?",
    "day": "days?",
    "week": "weeks?",
    "month": "months?",
    "year": "yrs?|years?",
    "ug": "ug|micrograms?",
    "mg": "mg|milligrams?",
    "g": "gm?s?|grams?",
    "kg": "kgs?|kilo(?:gram)?s?",
    "pound": "lbs?|pounds?|GBP",
    "oz": "oz|ounces?",
    "t": "tons?|tonnes?",
    "ml": "m[lL]|millilit(?:er|re)s?",
    "l": "[lL]|lit(?:er|re)s?",
    "gallon": "gal|gallons?",
    "dollar": "dollars?|USD|usd|bucks?",
    "cent": "cents?",
    "euro": "euros?|EUR",
    "rupee": "rupees?|[Rr]s|INR",
    "deg": "deg|degrees?",
    "rad": "rads?|radians?",
    "am": "[Aa]\\.?\\s?[Mm]|AM",
    "pm": "[Pp]\\.?\\s?[Mm]|PM",
    "mi h": "mph",
    "km h": "km?ph|kmh",
    "J": "k?J|joules?",
    "N": "N|newtons?",
    "W": "k?Wh?|watts?",
    "V": "V|volts?",
    "ohm": "[kM]?ohms?",
    "A": "A|amp(?:ere)?s?",
    "Hz": "k?Hz|hertz",
    "Pa": "k?Pa|pascals?",
    "K": "K|kelvins?",
    "C": "C|[Cc]elsius",
    "F": "F|[Ff]ahrenheit",
    "mol": "mol|moles?",
}
"""Unit -> its spellings. Two answers whose units are both here, and differ, are different answers."""
_KNOWN = re.compile("|".join(f"(?P<u{i}>{spellings})" for i, spellings in enumerate(_SPELLINGS.values())))
_MODIFIER = re.compile(r"sq(?:uare)?|cu(?:bic)?|per|units?|of|an?|the|to|for", re.IGNORECASE)
_NOUN = re.compile(r"(?=[A-Za-z]*[aeiou])[A-Za-z]{4,}|[b-z][aeiou][a-z]|egg|arm|ant", re.IGNORECASE)
"""A word that may name what is counted; other short runs of letters may be products of variables."""
_NUMBER_WORD = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|forty|fifty"
CHANGES = re.compile(
    r"\b(?:not|or|pi|plus|minus|negative|factorial|mod(?:ulo)?|squared|cubed|roots?|sqrt|log|ln|sin|cos|tan|twice|thrice|below|between"
    r"|half|halves|thirds?|quarter|quarters\s+of|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?|(?:hundred|thousand|million)ths?"
    r"|dozens?|hundreds?|thousands?|[a-z]*illions?|lakhs?|crores?"
    r"|at\s+(?:least|most)|(?:more|less|greater|fewer|larger|smaller|bigger|higher|lower|longer|shorter|other|rather)\s+than|up\s+to|no\s+more|times\s+(?:as|more|less|the)"
    rf"|and\s+(?:an?\s|one|{_NUMBER_WORD}))\b|\b(?:over|under|above|nearly|almost|beyond)\s+[$£€]?\d",
    re.IGNORECASE,
)
"""Words that change the number beside them, bound it, or add a second one."""
_NO_UNIT = re.compile(rf"\b(?:{_NUMBER_WORD}|base|remainder|if|when|where|unless|except|is|are)\b|\d", re.IGNORECASE)
"""Behind a value these change it too; elsewhere in a sentence they may be harmless ("the two of them have 12")."""
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SHARES = {"half": "1/2", "third": "1/3", "quarter": "1/4", "fourth": "1/4", "three quarters": "3/4", "two thirds": "2/3"}
_SIGN_WORD = re.compile(r"\b(?:negative|minus)\s+(?=[£€$\\]{0,2}[\d.])", re.IGNORECASE)
_AND_A_SHARE = re.compile(rf"(?<=\d)\s+and\s+(?:an?\s+|one[\s-]+)?({'|'.join(_SHARES)})\b", re.IGNORECASE)
_SCALED = re.compile(rf"(\d[\d,]*(?:\.\d+)?|\.\d+)\s*({'|'.join(_SCALES)})s?\b", re.IGNORECASE)
_CURRENCY = {"$": "dollar", "£": "pound", "€": "euro", "¢": "cent", "¥": "yen", "₹": "rupee", "₩": "won", "₽": "rouble"}
CURRENCY = re.compile(
    rf"(?:\b(?:US|CA|AU|NZ|HK|[CAS]))?\\?[{''.join(_CURRENCY)}]|\\(?:pounds|euro|yen|texteuro)(?![A-Za-z])|\b(?:USD|EUR|GBP|INR|Rs\.?)\s?(?=\d)"
)
"""A currency's sign, or its code before a number."""


def is_unit(words: str) -> bool:
    """Whether the words behind a value only say what it counts: ``square units``, ``km/h``, ``apples``."""
    names = re.findall(r"[A-Za-z]+", _times_of_day(words))
    return not alters(words) and all(any(kind.fullmatch(name) for kind in (_KNOWN, _MODIFIER, _NOUN)) for name in names)


def alters(words: str) -> bool:
    """Whether words behind a value change it: ``million``, ``or 5``, ``and a half``."""
    return bool(CHANGES.search(words) or _NO_UNIT.search(words))


def unit_of(words: str) -> tuple[str, ...] | None:
    """The known units that words or signs beside a value name, ``("km", "h")``; ``None`` where one of them is not known."""
    signs = [name for sign, name in _CURRENCY.items() if sign in words]
    names: list[str] = []
    for word in re.findall(r"[A-Za-z]+", _times_of_day(words)):
        if match := _KNOWN.fullmatch(word):
            names += list(_SPELLINGS)[int(str(match.lastgroup)[1:])].split()
        elif not _MODIFIER.fullmatch(word):
            return None
    return (*signs, *names)


def _times_of_day(words: str) -> str:
    return re.sub(r"\b([AaPp])\.\s?([Mm])\b\.?", r"\1\2", words)


def spell_out(text: str) -> str:
    """Words of sign and scale as digits: "negative 12" -> "-12", "9 and a half" -> "9 1/2", "2.5 million" -> "2500000"."""
    text = _AND_A_SHARE.sub(lambda match: " " + _SHARES[match[1].lower()], _SIGN_WORD.sub("-", text))

    def scaled(match: re.Match[str]) -> str:
        value = Fraction(match[1].replace(",", "")) * _SCALES[match[2].lower()]
        return str(value) if value.denominator == 1 else match[0]

    return _SCALED.sub(scaled, _SCALED.sub(scaled, text))  # "2 hundred thousand"
