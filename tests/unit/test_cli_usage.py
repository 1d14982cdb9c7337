"""Wrong usage, stdout that takes nothing, boxes: how the command behaves as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from delaybox.cli import usage


def delaybox(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "delaybox", *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("list --json --limit x", "'--limit'"),
        ("get --json", "give the id of a task"),
        ("lst --json", "No such command 'lst'"),
        ("serve --log-format json --prot 1", "No such option"),
    ],
)
def test_with_json_wrong_usage_is_json(arguments: str, words: str) -> None:
    done = delaybox(*arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    message = json.loads(line)
    assert (message["level"], message["code"]) == ("error", "usage")
    assert words in message["event"] and "--help" in message["event"]


@pytest.mark.parametrize("option", ["--server", "--token", "--json"])
def test_an_option_before_the_command_is_told_where_it_stands(option: str) -> None:
    done = delaybox(option, "list")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{option} stands before the command; write it after it: delaybox list {option}" in done.stderr


def test_wrong_choices_are_told_in_plain_words() -> None:
    message = delaybox("list", "--state", "foo").stderr
    assert "Invalid value for '--state' / '-s': 'foo' is not one of 'scheduled'" in message


def test_boxes_are_for_a_terminal() -> None:
    for arguments in (["--help"], ["list", "--help"], ["list", "--limit", "x"], ["dead", "lst"]):
        done = delaybox(*arguments)
        assert not set("╭│╰") & set(done.stdout + done.stderr), arguments
    assert delaybox("list", "--limit", "x").stderr.startswith("error: Invalid value for '--limit'")


def test_what_follows_two_hyphens_asks_for_nothing() -> None:
    assert usage.asks_for_json(["list", "--json"])
    assert not usage.asks_for_json(["schedule", "--", "--json"])
    assert usage.asks_for_json(["serve", "--log-format=json"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", ["--version", "--help", "config check --help"])
def test_a_full_disk_is_told_in_a_line(arguments: str) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = delaybox(*arguments.split(), stdout=full)
    finally:
        os.close(full)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["error: the answer could not be written: No space left on device"]
