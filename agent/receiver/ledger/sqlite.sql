-- All SQL of the SQLite ledger, by name. A record's position is stream number * 2^40 + sequence: one b-tree, no index.

-- :schema
create table streams (
  number integer primary key,                 -- order of opening
  venue text not null,
  epoch text not null,
  parent_epoch text,
  parent_sequence integer,
  reason text not null,
  origin blob not null,
  instance text not null,
  state text not null default 'open',
  successor text,
  next integer not null default 1,
  head blob not null,
  opened_at text not null,
  bound_at text not null,
  unique (venue, epoch)
) strict;
create table records (
  position integer primary key,
  rechash blob not null,
  text blob not null                          -- the JSON object as received
) strict;
create table rejections (                     -- marks rows of records that are in quarantine
  position integer primary key,
  type text not null,
  detail text not null
) strict;
create table holes (
  position integer primary key,               -- of the last sequence
  first integer not null,
  prevhash blob not null,
  rechash blob not null,
  reason text not null,
  declared_at text not null
) strict;
create table health (
  venue text primary key,
  received_at text not null,
  body blob not null
) strict;

-- :stream  (unique venue, epoch)
select number, next, head, origin, instance, state, successor, parent_epoch, parent_sequence
from streams where venue = ? and epoch = ?

-- :open
insert into streams (venue, epoch, parent_epoch, parent_sequence, reason, origin, instance, head, opened_at, bound_at)
values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- :bind
update streams set instance = ?, bound_at = ? where number = ?

-- :close
update streams set state = 'closed', successor = ? where venue = ? and epoch = ?

-- :hash  (primary keys)
select rechash from records where position = :position
union all
select rechash from holes where position = :position

-- :hashes  (primary keys)
select position, rechash from records where position between :first and :last
union all
select position, rechash from holes where position between :first and :last

-- :rejections  (primary key)
select position, type, detail from rejections where position between ? and ? order by position

-- :append
insert into records (position, rechash, text) values (?, ?, ?)

-- :reject
insert into rejections (position, type, detail) values (?, ?, ?)

-- :hole
insert into holes (position, first, prevhash, rechash, reason, declared_at) values (?, ?, ?, ?, ?, ?)

-- :advance
update streams set next = ?, head = ? where number = ?

-- :health_keep
insert into health (venue, received_at, body) values (?, ?, ?)
on conflict (venue) do update set received_at = excluded.received_at, body = excluded.body

-- :health
select body from health where venue = ?

-- :streams
select venue, epoch from streams order by number

-- :venue_streams  (unique venue, epoch)
select number, epoch from streams where venue = ? order by number

-- :page_records  (primary keys)
select position, text from records
where position > :after and position < :end
  and not exists (select 1 from rejections where rejections.position = records.position)
order by position limit :limit

-- :page_rejected  (primary keys)
select position, type, detail, text from rejections join records using (position)
where position > :after and position < :end
order by position limit :limit

-- :page_holes  (primary key)
select position, first, prevhash, rechash, reason, declared_at from holes
where position > :after and position < :end
order by position limit :limit
