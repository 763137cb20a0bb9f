-- Letters to people and their services. `key` names the occasion: the same one is never queued twice. `message` is the
-- letter as JSON; times are seconds that this box had run.
create table letters (
  id integer primary key,
  key text not null unique,
  message text not null,
  queued_s real not null,
  tries integer not null,
  state text not null check (state in ('waiting', 'sent', 'refused', 'expired')),
  detail text not null,
  ended_s real
) strict;

-- Small facts that must outlive a restart, as JSON.
create table kept_facts (
  name text primary key,
  value text not null
) strict, without rowid;
