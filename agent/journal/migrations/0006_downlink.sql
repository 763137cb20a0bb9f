-- How far the cloud's commands were heard: the cursor behind the last one that is kept.
create table downlink (
  one integer primary key check (one = 1),
  cursor text not null
) strict;

-- What the cloud has told, by event and what it is about; of some only the newest. `data` is one line of JSON.
create table commands (
  id integer primary key,
  event text not null,
  business text not null,
  data text not null,
  heard_ms integer not null,
  uptime_ms integer not null,
  boot integer not null,
  lived_s real not null,
  unique (event, business)
) strict;
