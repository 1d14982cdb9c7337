"""Bearer tokens as configuration writes them: in the list auth.tokens, in a variable, or in a file of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from delaybox.config import yamltext
from delaybox.config.sections import Mistake
from delaybox.core.errors import InvalidTask
from delaybox.core.scopes import DEFAULT_SCOPES, Access, Token
from delaybox.wire.json.moments import moment_ms

MIN_TOKEN = 16
FORMS = (
    f"a list of tokens (or text with commas between them): each a secret of {MIN_TOKEN} characters or more, sha256: "
    "and its 64 hex digits, or {name, token or hash, scopes, expires}; `delaybox token` makes one"
)
_HASH = re.compile(r"sha256:([0-9A-Fa-f]{64})")
_KEYS = ("name", "token", "hash", "scopes", "expires")


def parse(value: object) -> tuple[Token, ...]:
    """The tokens of a list, or of text: with commas, or a YAML or JSON list as a variable holds it. Mistake else."""
    if isinstance(value, str):
        value = _parts(value)
    if not isinstance(value, list | tuple):
        raise Mistake(f"is no list; it must be {FORMS}")
    tokens = tuple(one if isinstance(one, Token) else _token(one, at) for at, one in enumerate(value, 1))
    seen: dict[str, int] = {}
    for at, token in enumerate(tokens, 1):
        if first := seen.get(token.digest):
            raise Mistake(f"holds one token twice (entries {first} and {at}); keep one")
        seen[token.digest] = at
    return tokens


def from_file(path: Path) -> list[object]:
    """What a file of tokens holds: a YAML list (alone or under ``tokens:``), or one token a line. Mistake else."""
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise Mistake(f"names {path}, which cannot be read ({why}); make it readable or name another") from None
    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    if not lines:
        raise Mistake(f"names {path}, which holds no token; put one a line into it")
    if not lines[0].startswith(("-", "[", "tokens:")):
        return list(lines)
    content = _yaml(text)
    if isinstance(content, dict) and content.keys() == {"tokens"}:
        content = content["tokens"]
    if not isinstance(content, list) or not content:
        raise Mistake(f"names {path}, which is neither a YAML list of tokens nor one token a line")
    return content


def _parts(text: str) -> object:
    if text.lstrip().startswith(("[", "{")):
        return _yaml(text)
    return [part.strip() for part in text.split(",") if part.strip()]


def _yaml(text: str) -> object:
    try:
        return yamltext.read(text)
    except yamltext.YamlMistake as mistake:
        raise Mistake(f"is not a YAML list that can be used: {mistake}") from None


def _token(entry: object, at: int) -> Token:
    if isinstance(entry, str):
        return Token(_digest(entry, f"entry {at}"))
    if not isinstance(entry, Mapping):
        raise Mistake(f"entry {at} is neither text nor {{name, token or hash, scopes, expires}}")
    name = str(entry.get("name") or "")
    which = f"entry {at} ({name})" if name else f"entry {at}"
    if unknown := entry.keys() - set(_KEYS):
        raise Mistake(f"{which} has the unknown key {min(map(str, unknown))}; it may have {', '.join(_KEYS)}")
    if ("token" in entry) == ("hash" in entry):
        raise Mistake(f"{which} must have one of token (the secret) and hash (sha256: and its 64 hex digits)")
    secret = entry.get("token", entry.get("hash"))
    if "hash" in entry and not (isinstance(secret, str) and _HASH.fullmatch(secret)):
        raise Mistake(f"{which} has no usable hash; it must be sha256: and 64 hex digits, as `delaybox token` says")
    scopes = _scopes(entry.get("scopes", DEFAULT_SCOPES), which)
    return Token(_digest(secret, which), scopes, name, _expires(entry["expires"], which) if "expires" in entry else 0)


def _digest(secret: object, which: str) -> str:
    if not isinstance(secret, str) or not secret.strip():
        raise Mistake(f"{which} is empty; is a ${{NAME}} in it not set?")
    secret = secret.strip()
    if secret.startswith("sha256:"):
        if not (found := _HASH.fullmatch(secret)):
            raise Mistake(f"{which} starts with sha256: but has not 64 hex digits after it, as `delaybox token` says")
        return found[1].lower()
    if len(secret) < MIN_TOKEN:
        raise Mistake(f"{which} is shorter than {MIN_TOKEN} characters; `delaybox token` makes a good one")
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        raise Mistake(f"{which} has spaces or characters that a header cannot carry; `delaybox token` makes a good one")
    return Token.of(secret).digest


def _expires(value: object, which: str) -> int:
    try:
        return moment_ms("expires", str(value))
    except InvalidTask as error:
        raise Mistake(f"{which}: {error}") from None


def _scopes(value: object, which: str) -> tuple[Access, ...]:
    names = re.split(r"[\s,+]+", value.strip()) if isinstance(value, str) else value
    known = ", ".join(Access)
    if not isinstance(names, list | tuple) or not names or names == [""]:
        raise Mistake(f"{which} has no scopes; give some of {known}, or leave scopes out for all but shell")
    for name in names:
        if name not in set(Access):
            raise Mistake(f"{which} has the unknown scope {str(name)[:40]!r}; scopes are {known}")
    return tuple(dict.fromkeys(Access(name) for name in names))
