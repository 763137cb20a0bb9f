-- CRC-32 of what a row holds beside what its rechash seals (core.chain.beside); null in rows of schema 1.
alter table records add column beside integer;

-- `fenced`: another process writes this epoch at the cloud, it is never opened again. `sealed`: position up to which
-- records carry this stream's seals while they are sealed anew after a fork; null when all do.
alter table streams add column fenced integer not null default 0;
alter table streams add column sealed integer;

-- `doubt`: why the present epoch must not be continued (restored, adopted); the next exchange with the cloud opens a new
-- one. `boottime_s`: seconds this box has run since the journal was created, as of `boottime_boot` at `boottime_at_s`.
alter table journal add column doubt text;
alter table journal add column boottime_s real not null default 0;
alter table journal add column boottime_boot text;
alter table journal add column boottime_at_s real not null default 0;

-- How far the cloud had called everything safe when this box had run so long: what retention counts from.
create table safe_marks (
  position integer primary key,
  boottime_s real not null
) strict;

-- A hole's request to its device survives a restart, and so does its age (in the seconds that this box has run).
alter table gaps add column command text;
alter table gaps add column opened_boottime_s real; -- of a lost one: when it was declared lost

-- What wall time minus uptime truly was in a boot, once its clock was synchronised (nightsafe.clock.corrected).
alter table boots add column offset_ms integer;

-- When a device's last event came, by the clock that no hand can set.
alter table devices add column last_boot integer;
alter table devices add column last_uptime_ms integer;

-- Positions whose records were damaged beyond mending and set aside: their loss is named, here and at the cloud.
create table missing (
  last integer primary key,
  first integer not null,
  reason text not null,
  found_ms integer not null
) strict;
