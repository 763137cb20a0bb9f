-- What is known of orders, one fact a row, as JSON. Most stand as the box's own records in the log too, the others are
-- what commands said, and which devices have an order on their screen.
create table order_facts (
  id integer primary key,
  order_id text not null,
  fact text not null,
  unique (order_id, fact)
) strict;

-- The orders there are. `resting`: nothing is to be done about it; `changed_s`: when its last fact came, in seconds that
-- the box had run.
create table orders (
  id integer primary key,
  order_id text not null unique,
  resting integer not null,
  changed_s real not null
) strict;
create index orders_resting on orders (resting, changed_s);

-- Up to where the log was looked through for what devices say of orders. `taken`: what the cloud had told of orders
-- before is taken in.
create table orders_place (
  one integer primary key check (one = 1),
  position integer not null,
  taken integer not null
) strict, without rowid;
insert into orders_place (one, position, taken) values (1, 0, 0);
