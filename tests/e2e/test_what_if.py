"""What-if in a browser: keeping the decision gives the recorded trace, a denial is reported, the tree shows both."""

import pytest
from playwright.sync_api import expect
from served_app import Watched, settle

from stir_core.store.runs import Run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def branch(watched: Watched) -> None:
    """Press the button and wait until the tree shows the branch."""
    watched.page.locator(".st-key-what_if_branch button").click()
    watched.page.get_by_role("button", name="Stop decoding").wait_for(timeout=120_000)
    watched.page.get_by_role("button", name="Stop decoding").wait_for(state="detached", timeout=300_000)
    settle(watched.page)


@pytest.mark.model
def test_a_decision_is_kept_and_denied_and_the_tree_shows_both(watched: Watched) -> None:
    traces = [trace for trace in Run.open("smollm2").traces("steered") if trace.steps[-1].decision.chosen]
    trace = min(traces, key=lambda trace: len(trace.steps[-1].token_ids))
    step = trace.steps[-1]
    page = watched.page
    page.goto(f"{watched.url}/what_if?run=smollm2&problem={trace.id.replace('+', '%2B')}&m={step.m}")
    settle(page)
    mark = f"⟦control point {step.m} · {step.decision.chosen} × {step.decision.alpha:.2f}⟧"
    expect(page.locator(".mark").first).to_have_text(mark)
    page.locator(".st-key-what_if_way").get_by_text("Keep", exact=True).click()
    settle(page)
    branch(watched)
    equal = f"nothing changed: equals the recorded trace token for token ({len(trace.token_ids)} of {len(trace.token_ids)} ids)"
    expect(page.get_by_text(equal)).to_be_visible()
    page.locator(".st-key-what_if_way").get_by_text("Deny", exact=True).click()
    settle(page)
    branch(watched)
    told = page.get_by_text("differs from the recorded trace from token").or_(page.get_by_text("equals the recorded trace token for token"))
    expect(told.first).to_be_visible()
    lanes = page.locator(".st-key-what_if_tree .mark-text.role-mark text")
    expect(lanes).to_have_text(["#0 recorded", f"#1 m {step.evidence.m}: keep", f"#2 m {step.evidence.m}: deny"])
    signs = page.locator(".st-key-what_if_tree .mark-symbol.role-mark path")
    assert signs.count() >= len(trace.steps) + 2  # the legend has more
    signs.nth(len(trace.steps)).click()  # the only visible change for the kept branch: the comparison is shown again
    page.get_by_text(equal).wait_for(timeout=60_000)
    settle(page)
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("m => new URLSearchParams(location.search).get('m') === m", arg=str(step.m - 1))
    settle(page)
    page.reload()
    settle(page)
    expect(page.locator(".mark").first).to_contain_text(f"⟦control point {step.evidence.m - 1} · ")
    expect(page.get_by_label("Held-out problem")).to_have_value(trace.id)
    watched.check()


@pytest.mark.model
def test_a_clicked_token_is_forked_and_an_answer_is_rerolled_into_a_tree(watched: Watched) -> None:
    trace = Run.open("two_habits").traces("steered")[0]
    page = watched.page
    page.goto(f"{watched.url}/trace?run=two_habits&problem={trace.id.replace('+', '%2B')}")
    settle(page)
    page.get_by_role("button", name="Decode both answers").click()
    page.get_by_role("button", name="Download both traces (JSON)").wait_for(timeout=200_000)
    settle(page)
    page.locator(".tv-token").filter(has_text="makes").first.click()  # of the steered answer
    page.locator(".tv-panel .near .tv-chosen").press("Enter")  # the token that is there
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("steered answer, token 10: “␣makes”, as it was")).to_be_visible()
    dialog.get_by_role("button", name="Fork here").click()
    page.wait_for_url("**/what_if?**")
    n = len(trace.token_ids)
    expect(page.get_by_text(f"equals the recorded trace token for token ({n} of {n} ids)")).to_be_visible(timeout=100_000)
    settle(page)
    page.locator(".st-key-what_if_way").get_by_text("Keep", exact=True).click()
    settle(page)
    page.get_by_role("button", name="Reroll 8 times").click()
    said = page.get_by_text("continuations sampled from control point 1: ")
    expect(said).to_be_visible(timeout=100_000)
    settle(page)
    final = page.locator("svg text").filter(has_text="→ 28")
    expect(final.first).to_be_visible()  # the final answer of a line
    page.reload()
    settle(page)
    expect(said).to_be_visible()
    watched.check()
