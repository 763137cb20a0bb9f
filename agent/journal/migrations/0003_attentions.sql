-- What has happened and waits for a person, with when it was first told: wall time as the box believed it, uptime and boot.
-- `ended_s`: seconds this box had run when a person acknowledged it; null while it stands.
create table attentions (
  id integer primary key,
  condition text not null,
  severity text not null,
  title text not null,
  text text not null,
  hint text not null,
  raised_ms integer not null,
  uptime_ms integer not null,
  boot integer not null,
  ended_s real
) strict;

-- Attentions that the box ended itself, because too many stood at once.
alter table journal add column attentions_left_out integer not null default 0;
