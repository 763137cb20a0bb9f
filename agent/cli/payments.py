"""agent → [cli] → people. `nightsafe payments`: what became of a payment, and which look as if they were taken twice.

Asks the running agent, which alone has the index. Decides nothing, and never changes a payment.
"""

import json
import re
from datetime import UTC, date, datetime, timedelta
from getpass import getuser
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

import typer

from agent.cli.local import ask, post
from agent.cli.options import CONFIG_DEFAULT, ConfigOption, JsonOption
from agent.core.business_day import business_date as date_of_instant
from agent.core.business_day import cut_off
from agent.core.errors import Rejected
from agent.core.money import minor_units, money_text
from agent.core.printable import printable
from agent.core.sentence import count
from agent.settings.load import load
from agent.settings.schema import Settings

app = typer.Typer(no_args_is_help=True, help="What became of payments.")

PATH: Final = "/api/v1/payments"
DAY: Final = "/api/v1/business-days"
TIMES: Final = {
    "till": "at the till",
    "edge_durable": "stored here",
    "uploaded": "seen uploaded",
    "posted": "posted",
    "declined": "declined",
}
FATES: Final = {
    "unknown": "UNKNOWN",
    "edge_durable": "STORED HERE, not uploaded yet",
    "uploaded": "UPLOADED, not settled yet",
    "posted": "POSTED",
    "declined": "DECLINED",
}
CLOCK: Final = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]", re.ASCII)
PLAIN: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T]([01][0-9]|2[0-3]):[0-5][0-9]", re.ASCII)

Actor = Annotated[str, typer.Option("--actor", help="Who says so; it is recorded.", default_factory=getuser)]


@app.command()
def status(
    payment_id: Annotated[str, typer.Argument(help="The payment's id, as the till has it.")] = "",
    check: Annotated[str, typer.Option("--check", help="Payments of this check instead.")] = "",
    last4: Annotated[str, typer.Option("--last4", help="By the last four digits, with --amount and --at.")] = "",
    amount: Annotated[str, typer.Option("--amount", help="Minor units, 1250, or with two decimals, 12.50.")] = "",
    currency: Annotated[str, typer.Option("--currency", help="Three letters, where there are several.")] = "",
    at: Annotated[str, typer.Option("--at", help='About when: "19:02", "2026-11-22 19:02", or RFC 3339.')] = "",
    within_s: Annotated[float, typer.Option("--within", help="How far from that, in seconds.")] = 1800.0,
    device: Annotated[str, typer.Option("--device", help="By the device's own counting, with --sequence.")] = "",
    sequence: Annotated[str, typer.Option("--sequence", help="The event's sequence at the device.")] = "",
    config: ConfigOption = CONFIG_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """What became of a payment, and whether the guest may be charged again."""
    settings = load(config)
    asked: dict[str, Any] = {"check": check, "last4": last4, "device": device}
    if sum(map(bool, (payment_id, check, last4, device))) != 1:
        raise Rejected("payment_query", "Ask for one payment id, --check, --last4 or --device.", "See --help.")
    if last4:
        asked |= {
            "amount": _minor(amount, currency),
            "currency": currency,
            "at": _instant(at, settings),
            "within_s": within_s,
        }
    asked |= {"sequence": sequence} if device else {}
    path = f"{PATH}/{quote(payment_id, safe='')}" if payment_id else f"{PATH}?{urlencode(_given(asked))}"
    told = ask(settings.state.directory, "GET", path)
    if as_json:
        print(json.dumps(told, indent=2))
        return
    zone = ZoneInfo(settings.venue.timezone)
    print(printable(f"{FATES[told['fate']]}. {told['reason']}"))
    print(f"Safe to charge again: {told['re_charge_safe']}")
    for one in told["payments"]:
        print("\n".join(map(printable, _lines(one, zone))))


@app.command()
def suspects(config: ConfigOption = CONFIG_DEFAULT, as_json: JsonOption = False) -> None:
    """Payments that look as if they were charged twice, and refunds of payments that are not settled."""
    settings = load(config)
    told = ask(settings.state.directory, "GET", f"{PATH}?suspect=duplicate")
    if as_json:
        print(json.dumps(told, indent=2))
        return
    zone = ZoneInfo(settings.venue.timezone)
    if not told["up_to_date"]:
        print("The box has not looked through all of its records yet: there may be more.")
    for group in told["suspects"]:
        print(printable(f"May have been charged twice. {group['reason']}"))
        for one in group["payments"]:
            print("\n".join(map(printable, _lines(one, zone))))
    if told["count"]:
        print(f"{count(told['count'], 'suspected sale')}. Nothing was held or refunded. Compare with the tills, then:")
        print("nightsafe payments dismiss PAYMENT_ID --reason TEXT")
    else:
        print("No payment looks as if it was charged twice.")
    for one in told["untimely"]:
        print("Refunded, voided or reversed before its fate was final:")
        print("\n".join(map(printable, _lines(one, zone))))


@app.command()
def dismiss(
    payment_id: Annotated[str, typer.Argument(help="One of the suspected payments.")],
    reason: Annotated[str, typer.Option("--reason", help="What was found; it is recorded.")],
    actor: Actor,
    config: ConfigOption = CONFIG_DEFAULT,
) -> None:
    """A suspected payment was looked at: take it and what looks like it from the list."""
    settings = load(config)
    body = {"payment_id": payment_id, "actor": actor, "reason": reason}
    post(settings.state.directory, f"{PATH}/dismiss", body)
    print(printable(f"{payment_id} is off the list; what looks like it from now on is listed again."))


@app.command()
def release(
    payment_id: Annotated[str, typer.Argument(help="The payment that was allowed offline and never came.")],
    reason: Annotated[str, typer.Option("--reason", help="What was found; it is recorded.")],
    actor: Actor,
    taken: Annotated[
        bool, typer.Option("--taken", help="It was taken, and you know from who settles it what became of it.")
    ] = False,
    config: ConfigOption = CONFIG_DEFAULT,
) -> None:
    """What is reserved for an offline card payment counts towards no limit any more.

    For where nothing was taken, or with --taken where you know what became of it."""
    settings = load(config)
    body = {"id": payment_id, "actor": actor, "reason": reason, "taken": taken}
    post(settings.state.directory, f"{PATH}/release", body)
    print(printable(f"Nothing is reserved for {payment_id} any more."))


@app.command()
def reservations(config: ConfigOption = CONFIG_DEFAULT, as_json: JsonOption = False) -> None:
    """Card payments that were allowed or taken offline and have no final fate, the oldest first."""
    found = ask(load(config).state.directory, "GET", "/api/v1/reservations")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for one in found:
        how = "taken, the cloud has not said what became of it" if one["stored"] else "allowed, and has not come"
        how = "taken without asking this box" if one["against"] else how
        print(printable(f"{one['payment_id']}  {one['device']}  {money_text(one['amount'], one['currency'])}  {how}"))
    print(f"{count(len(found), 'card payment')} without a final fate." if found else "Nothing is reserved.")


@app.command()
def day(
    business_date: Annotated[str, typer.Argument(metavar="[DATE]", help="2026-11-22; today's without it.")] = "",
    config: ConfigOption = CONFIG_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Whether a business day is complete, and what it took in. Ends with 1 where it is not safe to close."""
    settings = load(config)
    venue = settings.venue
    if not business_date:
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        business_date = date_of_instant(now_ms, ZoneInfo(venue.timezone), cut_off(venue.day_starts_at)).isoformat()
    told = ask(settings.state.directory, "GET", f"{DAY}/{quote(business_date, safe='')}")
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        print("\n".join(map(printable, _day_lines(told))))
    if not told["safe_to_close"]:
        raise typer.Exit(1)


def _day_lines(told: dict[str, Any]) -> list[str]:
    lines = [f"Business day {told['business_date']} ({told['timezone']})"]
    lines += ["Safe to close."] if told["safe_to_close"] else ["NOT safe to close:"]
    lines += [f"  {reason}" for reason in told["reasons"]]
    for title, totals in (("Totals", told["totals"]), ("Training, no money", told["training"])):
        lines += [f"{title}:"] * bool(totals)
        lines += [
            f"  {one['tender']}  {_sum(one, 'net')}  = captured {_sum(one, 'captured')} - refunded "
            f"{_sum(one, 'refunded')} - voided {_sum(one, 'voided')} - reversed {_sum(one, 'reversed')}"
            for one in totals
        ]
    lines += ["No payment of that day."] * (not told["totals"])
    for one in told["devices"]:
        lines.append(f"  {one['device']}: {one['received']} payment records, {one['uploaded']} of them at the cloud")
    if told["late_count"]:
        lines.append(f"{count(told['late_count'], 'payment record')} came after the end of the day.")
    return lines


def _sum(total: dict[str, Any], what: str) -> str:
    return money_text(total[what], total["currency"])


def _lines(one: dict[str, Any], zone: ZoneInfo) -> list[str]:
    """A payment in words."""
    card = f" ending {one['last4']}" if one["last4"] else ""
    money = money_text(**one["amount"])
    what = [one["device"], f"{one['tender']}{card}", money]
    what += [f"check {one['check_id']}"] * bool(one["check_id"]) + ["training"] * one["training"]
    what += ["taken offline"] * one["offline"]
    lines = [f"  {one['payment_id']}  {FATES[one['fate']]}", f"    {', '.join(what)}"]
    lines += [f"    {TIMES[name]} {_local(at, zone)}" for name, at in one["times"].items()]
    undone = [event for event in one["events"] if event["type"].endswith(("voided", "refunded", "reversed"))]
    return lines + [
        f"    {event['type'].rpartition('.')[2]} {money_text(**event['amount'])} by {event['device']}"
        for event in undone
    ]


def _given(asked: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if value != ""}


def _local(at: str, zone: ZoneInfo) -> str:
    try:
        return f"{datetime.fromisoformat(at).astimezone(zone):%Y-%m-%d %H:%M:%S}"
    except ValueError:
        return at


def _minor(text: str, currency: str) -> int:
    """An amount in minor units, as people write it."""
    found = minor_units(text, currency)
    if found is None:
        raise Rejected("payment_query", f'"{text}" is no amount.', "Give --amount in minor units, 1250, or 12.50.")
    return found


def _day_of(clock: str, now: datetime) -> date:
    """The day of the last time that the clock showed this; a time within the next half hour is today's."""
    hour, _, minute = clock.partition(":")
    today = now.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
    return (today if today <= now + timedelta(minutes=30) else today - timedelta(days=1)).date()


def _instant(text: str, settings: Settings) -> str:
    """An instant as people say it at the venue, as RFC 3339."""
    zone = ZoneInfo(settings.venue.timezone)
    if CLOCK.fullmatch(text):
        text = f"{_day_of(text, datetime.now(zone)):%Y-%m-%d} {text}"
    if not PLAIN.fullmatch(text):
        return text
    return datetime.fromisoformat(text).replace(tzinfo=zone).isoformat()
