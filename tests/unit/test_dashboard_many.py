"""The page that counts and changes many tasks, in steps: what each step shows, and what its form sends on."""

from __future__ import annotations

from dataclasses import replace

from delaybox.api.dashboard.frame import Frames
from delaybox.api.dashboard.pages.many import ManyPages
from delaybox.api.dashboard.sessions import Sessions
from delaybox.api.dashboard.visit import Visit
from delaybox.core.query import BulkResult
from delaybox.core.scopes import Access


def page(action: str, form: dict[str, str]) -> tuple[ManyPages, Visit]:
    frames = Frames(Sessions("a secret of the tests " * 2, ()), "/dashboard", read_only=False)
    visit = Visit(
        method="POST", path=f"/dashboard/many/{action}", client="", params={}, query={}, headers={}, session=None,
        grant=frozenset(Access), read_only=False, form=form,
    )  # fmt: skip
    return ManyPages(frames, None), visit  # type: ignore[arg-type]


def test_the_page_of_a_step_sends_the_next_one_by_itself() -> None:
    many, visit = page("cancel", {"queue": "mail"})
    found = BulkResult(matched=3, cursor="further", sample=["an id"])
    text = many._shown(visit, "cancel", "cancelled", found).body.decode()
    assert "3 tasks would be cancelled, of those looked at so far" in text
    assert 'hx-trigger="load' in text and 'name="cursor" value="further"' in text
    assert "an id" in text
    blind = replace(visit, grant=frozenset({Access.CANCEL}))
    assert "an id" not in many._shown(blind, "cancel", "cancelled", found).body.decode()
    assert "Cancel all that match, without counting the others" in text
    visit.form = {"queue": "mail", "sure": "yes"}
    text = many._shown(visit, "cancel", "cancelled", BulkResult(changed=3, matched=3, cursor="further")).body.decode()
    assert "3 tasks were cancelled so far" in text and text.count("<form method") == 1
    done = BulkResult(changed=10_000, matched=10_000, cursor="further")
    text = many._shown(visit, "cancel", "cancelled", done).body.decode()
    assert "Go on with the next" in text and 'name="cursor" value="further"' in text and 'hx-trigger="load' not in text


def test_a_delay_counts_from_the_change_and_not_from_the_count() -> None:
    many, visit = page("move", {"queue": "mail", "delay": "1h"})
    text = many._shown(visit, "move", "moved", BulkResult(matched=3), due_ms=1_795_874_400_000).body.decode()
    assert 'name="delay" value="1h"' in text and 'name="at"' not in text
    visit.form = {**visit.form, "sure": "yes"}
    found = BulkResult(changed=3, cursor="further")
    text = many._shown(visit, "move", "moved", found, due_ms=1_795_874_400_000).body.decode()
    assert 'name="at" value="1795874400000"' in text and 'name="delay"' not in text
