"""Tokens in the configuration."""

from __future__ import annotations

import pytest

from delaybox.config import load
from delaybox.core.scopes import Token
from tests.configurations import elsewhere, refused, written

__all__ = ["elsewhere"]


@pytest.mark.parametrize(
    ("entry", "scopes"),
    [
        ("s" * 16, "read schedule cancel admin worker"),
        ("{token: ssssssssssssssss}", "read schedule cancel admin worker"),
        ("{name: a, token: ssssssssssssssss, scopes: [shell, schedule]}", "shell schedule"),
        ("{token: ssssssssssssssss, scopes: 'read, cancel'}", "read cancel"),
    ],
)
def test_tokens_and_their_scopes(entry: str, scopes: str) -> None:
    expected = Token.of("s" * 16).digest
    for text in (f"auth: {{tokens: [{entry}]}}", f"auth:\n  tokens:\n    - {entry}\n"):
        (token,) = load(path=written(text), environ={}).config.auth.tokens
        assert (token.digest, " ".join(token.scopes)) == (expected, scopes)
    (token,) = load(environ={"DELAYBOX_AUTH_TOKENS": f"[{entry}]"}).config.auth.tokens
    assert (token.digest, " ".join(token.scopes)) == (expected, scopes)
    hashed = entry.replace("token: " + "s" * 16, f"hash: 'sha256:{expected.upper()}'").replace("s" * 16, expected)
    if "hash" in hashed:
        assert load(environ={"DELAYBOX_AUTH_TOKENS": f"[{hashed}]"}).config.auth.tokens == (token,)


def test_a_file_of_tokens_adds_to_those_of_the_configuration() -> None:
    secrets = ["a" * 20, "b" * 20, "c" * 20]
    wanted = [Token.of(secret).digest for secret in secrets]
    for text in (
        f"# ours\n{secrets[1]}\n\n{secrets[2]}\n",
        f"- {secrets[1]}\n- token: {secrets[2]}\n",
        f"tokens:\n  - {secrets[1]}\n  - {secrets[2]}\n",
        f"[{secrets[1]}, {secrets[2]}]",
    ):
        written(text, "tokens")
        config = load(path=written(f"auth: {{tokens: [{secrets[0]}], tokensFile: tokens}}"), environ={}).config
        assert [token.digest for token in config.auth.tokens] == wanted
        assert len(load(environ={"DELAYBOX_AUTH_TOKENS_FILE": "tokens"}).config.auth.tokens) == 2
        assert "keep one" in refused(
            environ={"DELAYBOX_AUTH_TOKENS_FILE": "tokens", "DELAYBOX_AUTH_TOKENS": secrets[1]}
        )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("auth: {tokens: [{token: hunter2}]}", "auth.tokens (config.yaml) entry 1 is shorter than 16 characters"),
        ("auth: {tokens: [hunter2hunter2hunter2, '${NOT_SET}']}", "entry 2 is empty; is a ${NAME} in it not set?"),
        ("auth: {tokens: [{name: ci, token: hunter2hunter2hunter2, scopes: [reed]}]}", "entry 1 (ci) has the unknown"),
        ("auth: {tokens: [{name: ci, token: hunter2hunter2hunter2, scopes: []}]}", "entry 1 (ci) has no scopes"),
        (
            "auth: {tokens: [{name: ci, tokn: hunter2hunter2hunter2}]}",
            "unknown key tokn; it may have name, token",
        ),
        ("auth: {tokens: [{name: ci}]}", "must have one of token (the secret) and hash"),
        ("auth: {tokens: [{hash: hunter2hunter2hunter2}]}", "entry 1 has no usable hash"),
        ("auth: {tokens: ['hunter2 hunter2 hunter2']}", "entry 1 has spaces or characters that a header cannot carry"),
        ("auth: {tokens: [hunter2hunter2hunter2, hunter2hunter2hunter2]}", "one token twice (entries 1 and 2)"),
        ("auth: {tokens: {a: hunter2hunter2hunter2}}", ""),
        (
            "auth: {tokensFile: nowhere}",
            "auth.tokensFile (config.yaml) names nowhere, which cannot be read (No",
        ),
        ("auth: {tokensFile: empty}", "which holds no token"),
        ("auth: {tokensFile: weak}", "auth.tokensFile (config.yaml) entry 2 is shorter than 16"),
        ("auth: {tokensFile: broken}", "is not a YAML list"),
    ],
)
def test_mistakes_in_tokens_are_told_without_the_token(text: str, words: str) -> None:
    written("# nothing\n", "empty")
    written("hunter2hunter2hunter2\nhunter2\n", "weak")
    written("- [hunter2hunter2", "broken")
    if words:
        message = refused(path=written(text))
        assert words in message
    else:
        (message,) = load(path=written(text), environ={}).warnings
    assert "hunter2" not in message
