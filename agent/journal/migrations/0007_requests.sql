-- Requests in real time that were answered, so that a repeat gets the same reply: `reply` is its JSON.
-- `promised`: it approves a payment on trust.
create table requests (
  device text not null,
  id text not null,
  digest text not null,
  reply text not null,
  lived_s real not null,
  promised integer not null,
  primary key (device, id)
) strict, without rowid;
create index requests_age on requests (promised, lived_s);

-- Card payments that were taken on trust. `stored`: their own event is in the journal. `against`: taken offline without
-- being asked for. `ended`: null while nobody knows what became of them.
create table reservations (
  device text not null,
  payment_id text not null,
  token text not null,
  amount integer not null,
  currency text not null,
  at_s real not null,
  stored integer not null,
  against integer not null,
  manager text,
  reason text,
  ended text,
  ended_s real,
  ended_day text,
  primary key (device, payment_id)
) strict, without rowid;
