-- Every change of the uplink's raw state: what it became, and when, as the box believed it, with uptime and boot.
create table uplink_changes (
  id integer primary key,
  state text not null,
  cause text not null,
  finding text not null,
  at_ms integer not null,
  uptime_ms integer not null,
  boot integer not null,
  lived_s real not null
) strict;
