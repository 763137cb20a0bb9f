-- How far the index of payments has looked through the log; all of the index is made again from there. Without rowid, so
-- that its row looks like no mark of safe_marks where a damaged file is read page by page.
create table payments_place (
  one integer primary key check (one = 1),
  position integer not null
) strict, without rowid;
insert into payments_place (one, position) values (1, 0);

-- One row for each record of a payment. Of a card only its token and last four digits; `device_ms` is the device's time.
create table payment_events (
  position integer primary key,
  payment_id text not null,
  kind text not null,
  device text not null,
  event_id text not null,
  epoch text,
  sequence integer,
  check_id text,
  amount integer not null,
  currency text not null,
  tender text not null,
  card_token text,
  last4 text,
  offline integer not null,
  training integer not null,
  authorization_code text,
  business_date text,
  device_ms integer,
  recorded_ms integer not null,
  uptime_ms integer not null,
  boot integer not null
) strict;
create index payment_events_payment on payment_events (payment_id);
create index payment_events_check on payment_events (check_id) where check_id is not null;
create index payment_events_card on payment_events (card_token, amount) where card_token is not null;
create index payment_events_undoing on payment_events (position) where kind in ('voided', 'refunded', 'reversed');

-- Two payments that look like one sale charged twice; payment_id < twin_id.
create table payment_twins (
  payment_id text not null,
  twin_id text not null,
  position integer not null, -- of the record by which it was seen
  primary key (payment_id, twin_id)
) strict, without rowid;

-- The business dates that the events of a check have named; check ids may come again on another day.
create table payment_check_days (
  check_id text not null,
  business_date text not null,
  position integer not null,
  primary key (check_id, business_date)
) strict, without rowid;
create index payment_check_days_position on payment_check_days (position);

-- When the cloud was seen to have the log up to a position: at the latest then a payment before it was uploaded.
create table payment_marks (
  position integer primary key,
  wall_ms integer not null,
  uptime_ms integer not null,
  boot integer not null
) strict;

-- The cloud's word on a payment. `cursor` and `committed`: how far the cloud and the journal were when it came.
create table payment_fates (
  id integer primary key,
  payment_id text not null,
  fate text not null check (fate in ('posted', 'declined')),
  at text not null,
  reason text,
  cursor integer not null,
  committed integer not null,
  unique (payment_id, fate)
) strict;

-- Pairs that a person has looked at: no sale charged twice, or put right.
create table payment_dismissals (
  id integer primary key,
  payment_id text not null,
  twin_id text not null,
  actor text not null,
  reason text not null,
  wall_ms integer not null,
  uptime_ms integer not null,
  boot integer not null,
  unique (payment_id, twin_id)
) strict;
