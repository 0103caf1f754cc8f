"""
How a value that came from outside is shown: in a log message, in a finding of `ai-otel doctor`, in an error.

Such a value may hold a credential, move the terminal's cursor, or be as long as its author liked.
"""

from __future__ import annotations

import re

LIMIT = 200
"""Characters of one shown value."""
_READ = 4096
"""Characters that are searched for credentials; what follows is not shown either."""
MASK = "***"

_KEYS = r"(?:api|access|private|secret|auth|license)[-_]?key|token|secret|passw(?:or)?d|pwd|credential|authorization"
_NAMED = rf"[\w.-]{{0,40}}?(?:{_KEYS}|cookie)s?(?:[-_]\w+)?"
_QUOTE = r"[\"']?"

_MASKED = (
    (r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*)", MASK),
    # `user:password@host` and `token@host`, behind a scheme or without one.
    (r"(?<=://)[^\s?#]*@", f"{MASK}@"),
    (r"(?<![^\s=,;\"'(])[^\s/@:,=\"'(]+:(?!//)\S*@(?=[\w\[])", f"{MASK}@"),
    # Every value of a URL's query and fragment.
    (r"([?&;#][^\s=&;#]+)=[^\s&;#\"']*", rf"\1={MASK}"),
    (r"\b(bearer|basic|digest|apikey)(\s+|%20)[^\s,\"']+", rf"\1 {MASK}"),
    # `Authorization: VALUE`, `api_key=VALUE`, `"password": "VALUE"`, `--api-key VALUE`.
    (rf"\b({_NAMED}{_QUOTE}\s?[=:]\s?{_QUOTE})(?!\s|bearer |basic |digest )[^\s,;&\"']+", rf"\1{MASK}"),
    (rf"(?<!\S)(--?{_NAMED}\s+)(?!-)[^\s\"']+", rf"\1{MASK}"),
)
"""Pattern → what is shown. Compiled at first use: this module is imported at every start of an interpreter."""

# Credentials without a name: those of well-known forms, and long random ones.
_KNOWN = (
    r"(?<![\w-])(?:(?:sk|pk|rk|gsk|nvapi|glpat|hf|ghp|gho|ghs|ghu|github_pat|npm|pypi|xox[abprs]|glc|glsa|dop_v1|shpat)"
    r"[-_][\w-]{6,}|AKIA[0-9A-Z]{12,}|AIza[\w-]{20,}|eyJ[\w-]+\.[\w.-]+)"
)
_RANDOM = r"(?<![\w+-])[\w+-]{24,}={0,2}(?![\w+-])"
_UUID = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"


def shown(value: object, limit: int = LIMIT) -> str:
    """
    Return a value as one short line of printable text: credentials masked, control characters escaped.

    `limit` is the number of characters that are kept; the rest is an ellipsis.
    """
    text = masked(str(value)[:_READ])
    return escaped(text if len(text) <= limit else f"{text[: limit - 1]}…")


def masked(text: str) -> str:
    """Return a text without the credentials in it."""
    for pattern, by in _MASKED:
        text = re.sub(pattern, by, text, flags=re.IGNORECASE)
    text = re.sub(_KNOWN, MASK, text)
    return re.sub(_RANDOM, lambda match: MASK if _is_random(match[0]) else match[0], text)


def _is_random(word: str) -> bool:
    """Whether a long word is a key rather than a name: all hexadecimal, or letters of both cases and digits."""
    if re.search(_UUID, word):
        return False
    if re.fullmatch(r"[0-9a-fA-F]{32,}", word):
        return not word.isdecimal()
    return all(re.search(kind, word) for kind in ("[a-z]", "[A-Z]", "[0-9]"))


def escaped(text: str) -> str:
    """Return a text with every character escaped that a terminal would not print."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
