"""[settings: the way to the cloud] → schema. Where it is, how it is watched, how the journal is sent."""

from pathlib import Path
from typing import Annotated

from agent.settings.section import Address, Section, live, restart


class CloudSettings(Section, frozen=True):
    """The service at the other end."""

    url: Annotated[str, restart("Base URL; https, except on loopback.")]
    token_file: Annotated[
        Path | None, restart("File with the bearer token, relative to this file's folder; optional on loopback.")
    ] = None
    connect_timeout_s: Annotated[float, restart("Time for a connection to the cloud.", gt=0, le=300)] = 10.0
    request_timeout_s: Annotated[float, restart("Time for one whole request.", gt=0, le=3_600)] = 120.0
    silence_s: Annotated[
        float, restart("Silence after which the stream of the cloud's commands counts as dead.", ge=1, le=600)
    ] = 45.0
    answer_bytes_max: Annotated[int, restart("Largest answer that is read.", ge=4_096, le=67_108_864)] = 1_048_576


class DrainSettings(Section, frozen=True):
    """How the journal is sent to the cloud: one batch in flight, in order."""

    batch_records_first: Annotated[int, restart("Records in the first batch.", ge=1, le=100_000)] = 50
    batch_records_max: Annotated[int, restart("Records in any batch.", ge=1, le=100_000)] = 2_000
    batch_bytes_max: Annotated[
        int, restart("Decoded bytes in any batch; a single larger record still goes.", ge=65_536, le=268_435_456)
    ] = 8_388_608
    batch_target_s: Annotated[float, live("How long one batch is to take on the present link.", gt=0, le=60)] = 2.0
    backoff_first_s: Annotated[float, live("First pause after a failure; doubles, with full jitter.", gt=0, le=60)] = (
        1.0
    )
    backoff_max_s: Annotated[float, live("Longest pause after failures.", gt=0, le=3_600)] = 300.0
    retry_after_max_s: Annotated[float, live("Longest wait the cloud may ask for.", gt=0, le=86_400)] = 3_600.0
    bytes_per_s_max: Annotated[
        int,
        live("Bytes a second that uploading may take of the line, as they travel; 0 for all of it.", ge=0, le=10**10),
    ] = 0
    gzip: Annotated[bool, live("Whether batches are compressed.")] = True
    look_interval_s: Annotated[
        float, live("How often the journal is looked at without being told to.", gt=0, le=60)
    ] = 2.0
    check_interval_s: Annotated[
        float,
        live(
            "How often the cloud is asked whether it still has everything, and the same, while nothing is to be sent: "
            "it may have been restored from a backup.",
            gt=0,
            le=86_400,
        ),
    ] = 300.0
    poison_attention_s: Annotated[
        float, live("How long one record may fail alone until a person is told.", gt=0, le=86_400)
    ] = 900.0
    refused_retry_s: Annotated[
        float, live("Pause after the cloud refused with an answer that waiting does not cure.", gt=0, le=86_400)
    ] = 3_600.0


class UplinkSettings(Section, frozen=True):
    """Telling whether the cloud can be reached; for people and pacing only."""

    probe_interval_s: Annotated[
        float,
        live(
            'Longest time between two probes while nothing is uploaded. From a dead link to "offline" it takes at most '
            "this, the longer of probe_timeout_s and offline_debounce_s, and 1.5 s: 14 s unless changed.",
            ge=1,
            le=3_600,
        ),
    ] = 2.5
    probe_timeout_s: Annotated[float, live("Time for one probe.", gt=0, le=60)] = 5.0
    offline_debounce_s: Annotated[
        float,
        live('How long a failure lasts, from the start of its probe, before people read "offline".', ge=0, le=600),
    ] = 10.0
    layer_timeout_s: Annotated[
        float, live("Time for a look at one layer of the way to the cloud, while it is offline.", gt=0, le=30)
    ] = 3.0
    examine_interval_s: Annotated[
        float, live("Longest pause between two looks at all layers, while offline lasts.", ge=1, le=3_600)
    ] = 60.0
    portal_url: Annotated[
        str,
        live(
            "An http:// address on the internet whose answer is known: any other answer means that the network wants a "
            "login first. Empty: only a detour of plain requests to the cloud's host tells."
        ),
    ] = ""
    portal_answer: Annotated[str, live("The whole body of that answer.")] = ""
    other_hosts: Annotated[
        tuple[Address, ...],
        live(
            'Hosts on the internet, each "host:port", that are asked for a connection while the cloud gives none: if '
            "one answers, a firewall is in the way; if none does, the internet is down. Empty: neither is claimed.",
            max_length=4,
        ),
    ] = ()
    heartbeat_interval_s: Annotated[float, live("How often the cloud is told how the box is.", ge=1, le=86_400)] = 60.0
    history_days: Annotated[int, live("Days that the uplink's history is kept.", ge=1, le=3_650)] = 30
