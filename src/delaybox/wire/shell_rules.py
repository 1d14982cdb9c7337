"""What a shell task may ask for. The API checks it, so that nobody waits for a command that can never start."""

from __future__ import annotations

from dataclasses import dataclass

from delaybox.core.errors import InvalidTask, TypeDisabled
from delaybox.core.limits import MAX_COMMAND_BYTES

HOW_TO_ENABLE = (
    "a payload is run as a shell command only where a node was started with --enable-shell (config "
    "workers.shell.enabled)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellRules:
    """``payloads``: payloads may be commands. ``commands``: the names that are configured. ``judged_later``: any name
    is taken, because only the process that runs the command knows which there are."""

    payloads: bool = False
    commands: frozenset[str] = frozenset()
    judged_later: bool = False

    @property
    def any(self) -> bool:
        """Whether there are shell tasks at all."""
        return self.payloads or bool(self.commands)

    def check(self, payload: bytes, name: str = "", *, payload_field: str = "payload") -> None:
        """TypeDisabled for kinds of commands that are switched off, InvalidTask for a command that the system would
        refuse, or that is none."""
        if name:
            if name not in self.commands and not self.judged_later:
                known = f"; there are {', '.join(sorted(self.commands))}" if self.commands else ""
                raise TypeDisabled(
                    "name", f"name {name[:64]!r} is no command of this node (workers.shell.commands){known}"
                )
            return
        if not self.payloads:
            if not self.commands:
                raise TypeDisabled("type", f"shell tasks are switched off: {HOW_TO_ENABLE}")
            raise TypeDisabled(
                "type",
                "this node runs no payloads as shell commands, only named commands; give the name of one (/v1), or "
                "start the node with --enable-shell (config workers.shell.enabled)",
            )
        if not payload.strip():
            raise InvalidTask(
                payload_field, f"{payload_field} is empty, so there is no command to run; give one, or the name of a "
                "named command"
            )  # fmt: skip
        check_payload(payload, payload_field)


def check_payload(payload: bytes, field: str = "payload") -> None:
    """InvalidTask when no shell could be started with it."""
    if (at := payload.find(0)) >= 0:
        raise InvalidTask(
            field,
            f"{field} holds a NUL byte (at {at}), which no shell command can; leave it out",
        )
    if len(payload) > MAX_COMMAND_BYTES:
        raise InvalidTask(
            field,
            f"{field} is a shell command of {len(payload)} bytes, more than {MAX_COMMAND_BYTES}, the most "
            "that the system starts; put it into a script or give a named command (its payload is its standard input)",
        )
