-- One row of facts about this journal. `watermark` is the last position that the figures of devices, device_epochs and
-- known include; what lies behind it is folded in again at start. `cursor` and `safe` are positions.
create table journal (
  one integer primary key check (one = 1),
  venue text not null,
  created_ms integer not null,
  watermark integer not null default 0,
  cursor integer not null default 0,
  safe integer not null default 0
) strict;

-- A stream is one epoch of the journal. It starts behind position `base`; a record's sequence is position - base.
create table streams (
  id integer primary key,
  epoch text not null unique,
  base integer not null,
  origin blob not null,              -- prevhash of its first record
  parent text,                       -- epoch of its parent, with the last common sequence and rechash
  parent_sequence integer,
  parent_rechash blob,
  reason text not null
) strict;

create table boots (
  id integer primary key,
  boot text not null unique
) strict;

create table devices (
  id integer primary key,
  device text not null unique,
  stored_count integer not null default 0,
  stored_bytes integer not null default 0,
  uploaded_count integer not null default 0,
  uploaded_bytes integer not null default 0,
  last_ms integer
) strict;

-- One counting of one device; epoch '' stands for events without one. Ranges are JSON: [[first,last],…] beyond contiguous.
create table device_epochs (
  id integer primary key,
  device integer not null references devices (id),
  epoch text not null,
  contiguous integer not null default 0,
  ranges text not null default '[]',
  uploaded integer not null default 0,
  uploaded_ranges text not null default '[]',
  unique (device, epoch)
) strict;

create table gaps (
  device_epoch integer not null references device_epochs (id),
  first integer not null,
  last integer not null,
  opened_ms integer not null,
  state text not null default 'open' check (state in ('open', 'closed', 'lost')),
  primary key (device_epoch, first)
) strict, without rowid;

-- The log. `event` is the device's bytes as they came. Each row proves itself: rechash seals prevhash and all that counts.
create table records (
  position integer primary key,
  device_epoch integer not null,
  device_sequence integer,
  boot integer not null,
  recorded_ms integer not null,
  uptime_ms integer not null,
  synced integer not null,
  prevhash blob not null,
  rechash blob not null,
  event blob not null
) strict;

-- Every id that was ever stored, with the digest of its content: outlives the record.
create table known (
  device integer not null,
  id text not null,
  digest blob not null,
  position integer not null,
  primary key (device, id)
) strict, without rowid;

-- What was refused, and what a person did about it. `position` is its nightsafe.event.refused record.
create table quarantine (
  id integer primary key,
  position integer not null,
  device_epoch integer not null,
  device_sequence integer,
  event_id text,
  reason text not null,
  detail text not null,
  sha256 text not null,
  size integer not null,
  excerpt text not null,
  payload blob,                      -- null where a card number may stand in it
  refused_ms integer not null,
  state text not null default 'open' check (state in ('open', 'dismissed', 'resubmitted')),
  actor text,
  note text
) strict;
create index quarantine_sha256 on quarantine (sha256);
