"""One name, two sources: told apart from a device that comes back."""

from agent.core.takeovers import DEVICES_MAX, TAKEOVERS_MAX, WINDOW_S, Takeovers


def test_a_device_that_comes_back_now_and_then_is_one_device() -> None:
    seen = Takeovers()
    pause_s = WINDOW_S / (TAKEOVERS_MAX - 1) + 0.1
    assert not any(seen.note("till-1", at * pause_s) for at in range(100))


def test_two_that_throw_each_other_out_are_two_and_others_are_left_alone() -> None:
    seen = Takeovers()
    assert [seen.note("till-1", float(at)) for at in range(TAKEOVERS_MAX + 1)] == [False] * (TAKEOVERS_MAX - 1) + [
        True,
        True,
    ]
    assert not seen.note("till-2", 3.0)


def test_devices_that_name_themselves_fill_no_memory() -> None:
    seen = Takeovers()
    for at in range(TAKEOVERS_MAX - 1):
        seen.note("till-1", float(at))
    for number in range(DEVICES_MAX):
        seen.note(f"x-{number}", 5.0)
    assert len(seen._seen) == DEVICES_MAX
    assert not seen.note("till-1", 6.0)
