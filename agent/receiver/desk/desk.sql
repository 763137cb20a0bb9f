-- All SQL of the desk, by name.

-- :schema
create table logs (venue text primary key, log text not null) strict;
create table commands (
  venue text not null,
  number integer not null,
  event text not null,
  business text not null,
  data text not null,
  sent_at text not null,
  primary key (venue, number)
) strict, without rowid;
create index commands_business on commands (venue, event, business);
create table followed (venue text not null, epoch text not null, sequence integer not null, primary key (venue, epoch))
  strict, without rowid;
create table counted (venue text not null, device text not null, id text not null, primary key (venue, device, id))
  strict, without rowid;
create table accounts (
  venue text not null,
  kind text not null,
  id text not null,
  balance integer not null,
  currency text not null,
  bound integer not null,
  primary key (venue, kind, id)
) strict, without rowid;
create table answers (
  venue text not null,
  device text not null,
  id text not null,
  digest text not null,
  answer text not null,
  at_s real not null,
  primary key (venue, device, id)
) strict, without rowid;
create index answers_age on answers (at_s)

-- :orders_schema
create table if not exists order_marks (
  number integer primary key,
  venue text not null,
  order_id text not null,
  mark text not null,
  actor text not null,
  at text not null,
  reason text not null,
  unique (venue, order_id, mark)
) strict

-- :add_order_mark
insert into order_marks (venue, order_id, mark, actor, at, reason) values (?, ?, ?, ?, ?, ?) on conflict do nothing

-- :order_marks
select mark, actor, at, reason from order_marks where venue = ? and order_id = ? order by number

-- :latest_orders
select order_id from order_marks where venue = ? group by order_id order by max(number) desc limit ?

-- :log
select log from logs where venue = ?

-- :add_log
insert into logs (venue, log) values (?, ?) on conflict do nothing

-- :last_number
select coalesce(max(number), 0) from commands where venue = ?

-- :add_command
insert into commands (venue, number, event, business, data, sent_at) values (?, ?, ?, ?, ?, ?)

-- :has_command
select 1 from commands where venue = ? and event = ? and business = ? limit 1

-- :first_number
select min(number) from commands where venue = ?

-- :page_commands
-- of what only the newest holds, the newest
select number, event, data from commands as one where venue = ? and number > ? and not (
  event in ('menu.updated', 'platform.status') and exists (
    select 1 from commands as later indexed by commands_business
    where later.venue = one.venue and later.event = one.event and later.number > one.number))
order by number limit ?

-- :trim_commands
delete from commands where venue = ? and number <= ?

-- :followed
select sequence from followed where venue = ? and epoch = ?

-- :follow
insert into followed (venue, epoch, sequence) values (?, ?, ?)
on conflict (venue, epoch) do update set sequence = excluded.sequence

-- :count_once
insert into counted (venue, device, id) values (?, ?, ?) on conflict do nothing

-- :account
select balance, currency, bound from accounts where venue = ? and kind = ? and id = ?

-- :put_account
insert into accounts (venue, kind, id, balance, currency, bound) values (?, ?, ?, ?, ?, ?)
on conflict (venue, kind, id) do update set balance = excluded.balance

-- :answer
select digest, answer from answers where venue = ? and device = ? and id = ?

-- :add_answer
insert into answers (venue, device, id, digest, answer, at_s) values (?, ?, ?, ?, ?, ?)

-- :trim_answers
delete from answers where at_s < ?
