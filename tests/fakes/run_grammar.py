"""Checks that a run's events are what RunEvent's comment in the proto promises.

Written from the proto alone and knowing nothing of the agent service, so that a mistake there is not
repeated here. Any test that has the events of a finished run can call `check`.
"""

from collections.abc import Sequence

from ollamesh.agent.v1.run_pb2 import RunEvent

# Where in a run each event may stand, and where it leads.
TRANSITIONS = {
    ("start", "started"): "between",
    ("between", "step_started"): "writing",
    ("writing", "delta"): "writing",
    ("writing", "step_restarted"): "writing",
    ("writing", "tool_called"): "called",
    ("called", "tool_called"): "called",
    ("called", "tool_output"): "acting",
    ("called", "tool_returned"): "acting",
    ("called", "approval_requested"): "acting",
    ("acting", "tool_output"): "acting",
    ("acting", "tool_returned"): "acting",
    ("acting", "approval_requested"): "acting",
    ("acting", "approval_resolved"): "acting",
    ("writing", "step_finished"): "between",
    ("acting", "step_finished"): "between",
    ("between", "finished"): "end",
}


def check(events: Sequence[RunEvent]) -> None:  # noqa: C901 - One case for each kind of event.
    """Raise AssertionError unless these are all the events of a run that has ended."""
    state, step, waiting, asked = "start", 0, set[str](), set[str]()
    for number, event in enumerate(events, 1):
        assert event.sequence == number, f"event {number} is numbered {event.sequence}"
        kind = event.WhichOneof("event")
        assert (state, kind) in TRANSITIONS, f"{kind} cannot stand in '{state}'"
        state = TRANSITIONS[state, str(kind)]
        match kind:
            case "step_started":
                step += 1
                assert event.step_started.step == step
            case "delta":
                delta = event.delta
                assert delta.text or delta.thinking or delta.HasField("tool_call"), "an empty delta"
            case "step_restarted":
                assert event.step_restarted.step == step
            case "tool_called":
                assert event.tool_called.call.tool_call_id not in waiting, "a call is made once"
                waiting.add(event.tool_called.call.tool_call_id)
            case "tool_output":
                assert event.tool_output.tool_call_id in waiting, "output of a call that does not wait"
                assert event.tool_output.text
            case "tool_returned":
                waiting.remove(event.tool_returned.tool_call_id)
            case "approval_requested":
                assert event.approval_requested.tool_call_id in waiting, "a question about no open call"
                asked.add(event.approval_requested.approval_id)
            case "approval_resolved":
                asked.remove(event.approval_resolved.approval_id)
            case "step_finished":
                assert event.step_finished.step == step
                assert not asked, "a question has no answer"
                assert not waiting, "a call has no result"
    assert state == "end", f"the run stops in '{state}'"
    _check_usage(events, step)


def _check_usage(events: Sequence[RunEvent], step_count: int) -> None:
    """The counts of the steps add up to those of the run."""
    total = events[-1].finished.usage
    steps = [event.step_finished.usage for event in events if event.WhichOneof("event") == "step_finished"]
    assert total.step_count == step_count
    for name in ("step_count", "model_call_count", "tool_call_count"):
        assert getattr(total, name) == sum(getattr(usage, name) for usage in steps), name
    for name in ("prompt_token_count", "output_token_count"):
        assert getattr(total, name) == sum(getattr(usage, name) for usage in steps), name


def text_of(events: Sequence[RunEvent]) -> str:
    """What the model wrote in the whole run, but for what it took back."""
    texts: list[str] = []
    for event in events:
        match event.WhichOneof("event"):
            case "step_started":
                texts.append("")
            case "step_restarted":
                texts[-1] = ""
            case "delta":
                texts[-1] += event.delta.text
    return "".join(texts)


def kinds_of(events: Sequence[RunEvent]) -> list[str]:
    """The kinds of events, with neighbours of the same kind counted as one."""
    kinds = [str(event.WhichOneof("event")) for event in events]
    return [kind for place, kind in enumerate(kinds) if place == 0 or kinds[place - 1] != kind]
