-- All SQL of the journal, by name. Each statement says the index it uses where it is not the primary key.

-- name: read_journal
select venue, watermark, cursor, safe, doubt, boottime_s, boottime_boot, boottime_at_s from journal where one = 1;

-- name: create_journal
insert into journal (one, venue, created_ms) values (1, ?, ?);

-- name: open_stream
insert into streams (epoch, base, origin, parent, parent_sequence, parent_rechash, reason, sealed)
values (?, ?, ?, ?, ?, ?, ?, ?);

-- name: read_streams
select epoch, base, origin, parent, parent_sequence, parent_rechash, reason, fenced, sealed from streams order by id;

-- name: write_sealed
update streams set sealed = ? where epoch = ?;

-- name: write_fenced
update streams set fenced = 1 where epoch = ?;

-- name: clear_doubt
update journal set doubt = null where one = 1;

-- name: seal_record
update records set prevhash = ?, rechash = ? where position = ?;

-- name: read_first
select position from records order by position limit 1;

-- name: read_prevhash
select prevhash from records where position = ?;

-- name: read_missing_reason
select reason from missing where first <= ?2 and last >= ?1 limit 1;

-- name: read_head
select position, rechash from records order by position desc limit 1;

-- name: read_rechash
select rechash from records where position = ?;

-- name: add_boot
insert into boots (boot) values (?) on conflict (boot) do nothing;

-- name: read_boots
select id, boot from boots;

-- name: read_offsets
select id, offset_ms from boots where offset_ms is not null;

-- name: write_offset
update boots set offset_ms = ? where id = ?;

-- name: add_device
insert into devices (device) values (?);

-- name: read_devices
select id, device, stored_count, stored_bytes, uploaded_count, uploaded_bytes, last_ms, last_uptime_ms, last_boot
from devices;

-- name: write_device_stored
update devices set stored_count = ?, stored_bytes = ?, last_ms = ?, last_uptime_ms = ?, last_boot = ? where id = ?;

-- name: write_device_uploaded
update devices set uploaded_count = ?, uploaded_bytes = ? where id = ?;

-- name: add_device_epoch
insert into device_epochs (device, epoch) values (?, ?);

-- name: read_device_epochs
select id, device, epoch, contiguous, ranges, uploaded, uploaded_ranges from device_epochs order by id;

-- name: write_device_epoch
update device_epochs set contiguous = ?, ranges = ? where id = ?;

-- name: write_device_epoch_uploaded
update device_epochs set uploaded = ?, uploaded_ranges = ? where id = ?;

-- name: write_gap
insert into gaps (device_epoch, first, last, opened_ms, opened_boottime_s, state) values (?, ?, ?, ?, ?, ?)
on conflict (device_epoch, first) do update
set last = excluded.last, opened_ms = excluded.opened_ms, opened_boottime_s = excluded.opened_boottime_s,
    state = excluded.state, command = null;

-- name: write_gap_command
update gaps set command = ? where device_epoch = ? and first = ?;

-- name: end_gap
update gaps set state = ? where device_epoch = ? and first = ?;

-- name: read_gaps
select device_epoch, first, last, opened_ms, opened_boottime_s, command, state from gaps
where state in ('open', 'lost') or first = 0 order by device_epoch, first;

-- A row with first = 0 is no gap (sequences begin at 1) but a mark: a newer epoch has begun, and what is open of this
-- one up to `last` is lost in steps. It lies with the gaps so that whatever mends or rebuilds them carries it along.
-- name: write_ending
insert into gaps (device_epoch, first, last, opened_ms, state) values (?, 0, ?, ?, 'closed')
on conflict (device_epoch, first) do update set last = excluded.last;

-- name: remove_ending
delete from gaps where device_epoch = ? and first = 0;

-- name: add_records
insert into records
  (position, device_epoch, device_sequence, boot, recorded_ms, uptime_ms, synced, prevhash, rechash, event, beside)
values;

-- name: read_records
select position, device_epoch, device_sequence, boot, recorded_ms, uptime_ms, synced, prevhash, rechash, event, beside
from records where position > ? order by position limit ?;

-- name: read_recorded
select recorded_ms, uptime_ms, boot from records where position > ? order by position limit 1;

-- name: seek_known
with sought (device, id) as (values %s)
select known.device, known.id, known.digest from sought join known on known.device = sought.device and known.id = sought.id;

-- name: add_known
insert into known (device, id, digest, position) values;

-- name: write_watermark
update journal set watermark = ? where one = 1;

-- name: write_lived
update journal set boottime_s = ?, boottime_boot = ?, boottime_at_s = ? where one = 1;

-- name: read_safe_marks
select position, boottime_s from safe_marks order by position;

-- name: mark_safe
insert into safe_marks (position, boottime_s) values (?, ?) on conflict (position) do nothing;

-- name: prune_safe_marks
delete from safe_marks where position < ?;

-- name: drop_safe_marks
delete from safe_marks where position > ?;

-- name: delete_records
-- by primary key: the oldest rows
delete from records where position in (select position from records where position <= ? order by position limit ?);

-- name: write_cursor
update journal set cursor = ?, safe = ? where one = 1;

-- name: quarantine
insert into quarantine
  (position, device_epoch, device_sequence, event_id, reason, detail, sha256, size, excerpt, payload, refused_ms)
values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: seek_cloud_refused
-- by quarantine_sha256
select id from quarantine where sha256 = ? and position = ? and reason = 'cloud_refused' limit 1;

-- name: seek_quarantined
-- by quarantine_sha256
select q.id from quarantine q join device_epochs e on e.id = q.device_epoch where q.sha256 = ? and e.device = ? limit 1;

-- name: read_quarantine_since
select device_epoch, device_sequence from quarantine where position > ? order by id;

-- name: read_quarantine_open
select device_epoch, event_id, device_sequence, reason, detail from quarantine where state = 'open' order by id;

-- name: count_quarantined
select count(*) from quarantine where state = 'open';

-- name: list_quarantine
select q.id, d.device, e.epoch, q.device_sequence, q.event_id, q.reason, q.detail, q.sha256, q.size, q.excerpt, q.payload,
       q.refused_ms, q.state, q.actor, q.note
from quarantine q join device_epochs e on e.id = q.device_epoch join devices d on d.id = e.device
where (?1 is null and q.state = 'open') or q.id = ?1 order by q.id;

-- name: settle_quarantine
update quarantine set state = ?, actor = ?, note = ? where id = ? and state = 'open';

-- name: read_epoch_devices
select e.id, d.device from device_epochs e join devices d on d.id = e.device;

-- name: read_quarantined
select d.device, q.payload, q.reason, q.state
from quarantine q join device_epochs e on e.id = q.device_epoch join devices d on d.id = e.device where q.id = ?;

-- name: read_missing
select first, last from missing order by last;

-- name: read_record
select position, device_epoch, device_sequence, boot, recorded_ms, uptime_ms, synced, prevhash, rechash, event, beside
from records where position = ?;

-- name: mend_record
update records set device_epoch = ?, device_sequence = ?, boot = ?, recorded_ms = ?, uptime_ms = ?, synced = ?,
  prevhash = ?, rechash = ?, event = ?, beside = ?
where position = ?;

-- name: remove_record
delete from records where position = ?;

-- name: add_missing
insert into missing (first, last, reason, found_ms) values (?, ?, ?, ?) on conflict (last) do nothing;

-- name: find_missing
select first from missing where last >= ? order by last limit 1;

-- name: read_kept_behind
-- what the cloud lacks, without the events themselves
select device_epoch, device_sequence, length(event) from records where position > ?;

-- name: find_known_at
-- the whole table, once for all records whose ids cannot be read any more
select device, id from known where position in (select value from json_each(?));

-- name: read_known_position
select position from known where device = ? and id = ?;

-- name: remove_known
delete from known where device = ? and id = ?;

-- name: write_doubt
update journal set doubt = coalesce(doubt, ?) where one = 1;

-- name: rename_device
update devices set device = ? where id = ?;

-- name: read_missing_touching
select first, last from missing where last >= ?1 - 1 and first <= ?2 + 1;

-- name: remove_missing
delete from missing where last = ?;

-- name: read_uploaded
select uploaded, uploaded_ranges from device_epochs where id = ?;

-- name: read_records_between
select position, device_epoch, device_sequence, boot, recorded_ms, uptime_ms, synced, prevhash, rechash, event, beside
from records where position between ? and ? order by position;

-- name: read_positions
select position from records order by position;

-- name: has_record
select 1 from records where position = ?;

-- name: forget_lost
delete from known where position > ? and not exists (select 1 from records r where r.position = known.position);

-- name: read_sent
select device_epoch, device_sequence from records where position <= ?;

-- name: read_counting_names
select e.id, d.device, e.epoch from device_epochs e join devices d on d.id = e.device;

-- name: add_record_once
insert or ignore into records
  (position, device_epoch, device_sequence, boot, recorded_ms, uptime_ms, synced, prevhash, rechash, event, beside)
values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_known_once
insert or ignore into known (device, id, digest, position)
select e.device, ?2, ?3, ?4 from device_epochs e where e.id = ?1;

-- name: rename_device_of
update devices set device = ? where id = (select device from device_epochs where id = ?);

-- name: add_device_epoch_of
insert into device_epochs (device, epoch) select id, ? from devices where device = ?;

-- name: write_device_epoch_whole
update device_epochs set contiguous = ?, ranges = ?, uploaded = ?, uploaded_ranges = ? where id = ?;

-- name: count_kept_behind
select e.device, count(*) from records r join device_epochs e on e.id = r.device_epoch where r.position > ?
group by e.device;

-- name: add_uploaded_between
update devices set uploaded_count = uploaded_count + sent.count, uploaded_bytes = uploaded_bytes + sent.bytes
from (
  select e.device, count(*) as count, sum(length(r.event)) as bytes from records r
  join device_epochs e on e.id = r.device_epoch where r.position > ? and r.position <= ? group by e.device
) as sent where sent.device = devices.id;

-- name: read_attentions
select id, condition, severity, title, text, hint, raised_ms, uptime_ms, boot, ended_s from attentions order by id;

-- name: add_attention
insert into attentions (condition, severity, title, text, hint, raised_ms, uptime_ms, boot)
values (?, ?, ?, ?, ?, ?, ?, ?);

-- name: write_attention
update attentions set severity = ?, title = ?, text = ?, hint = ? where id = ?;

-- name: end_attention
update attentions set ended_s = ? where id = ?;

-- name: remove_attention
delete from attentions where id = ?;

-- name: read_attentions_left_out
select attentions_left_out from journal where one = 1;

-- name: write_attentions_left_out
update journal set attentions_left_out = ? where one = 1;

-- The uplink's history ----------------------------------------------------------------------------------------------

-- name: add_uplink_change
insert into uplink_changes (state, cause, finding, at_ms, uptime_ms, boot, lived_s) values (?, ?, ?, ?, ?, ?, ?);

-- name: read_uplink_changes
select state, cause, finding, at_ms, uptime_ms, boot from uplink_changes order by id desc limit ?;

-- name: remove_uplink_changes
delete from uplink_changes where lived_s < ? or id <= (select max(id) from uplink_changes) - ?;

-- Letters and kept facts --------------------------------------------------------------------------------------------

-- name: add_letter
insert into letters (key, message, queued_s, tries, state, detail) values (?, ?, ?, 0, 'waiting', '')
on conflict (key) do nothing;

-- name: count_letters_waiting
select count(*) from letters where state = 'waiting';

-- name: read_letters_waiting
select id, message, queued_s, tries, detail from letters where state = 'waiting' order by id;

-- name: note_letter_tried
update letters set tries = ?, detail = ? where id = ? and state = 'waiting';

-- name: end_letter
update letters set state = ?, detail = ?, ended_s = ?, tries = tries + 1 where id = ? and state = 'waiting';

-- name: remove_letters_ended
delete from letters where state <> 'waiting' and (ended_s < ? or id <= (select max(id) from letters) - ?);

-- name: read_kept_fact
select value from kept_facts where name = ?;

-- name: write_kept_fact
insert into kept_facts (name, value) values (?, ?) on conflict (name) do update set value = excluded.value;

-- name: remove_kept_fact
delete from kept_facts where name = ?;

-- Commands of the cloud ---------------------------------------------------------------------------------------------

-- name: read_downlink
select cursor from downlink where one = 1;

-- name: write_downlink
insert into downlink (one, cursor) values (1, ?) on conflict (one) do update set cursor = excluded.cursor;

-- name: add_command_once
insert into commands (event, business, data, heard_ms, uptime_ms, boot, lived_s) values (?, ?, ?, ?, ?, ?, ?)
on conflict (event, business) do nothing;

-- name: write_command
insert into commands (event, business, data, heard_ms, uptime_ms, boot, lived_s) values (?, ?, ?, ?, ?, ?, ?)
on conflict (event, business) do update set data = excluded.data, heard_ms = excluded.heard_ms,
  uptime_ms = excluded.uptime_ms, boot = excluded.boot, lived_s = excluded.lived_s;

-- name: read_command
select data, heard_ms, uptime_ms, boot from commands where event = ? and business = ?;

-- name: read_last_command
select max(id) from commands;

-- name: remove_commands
-- by primary key, which the plus sees to: nothing but the window of ids is looked at
delete from commands where id > ? and id <= ? and lived_s < ? and +event in ('payment.posted', 'payment.declined');

-- Requests and reservations -----------------------------------------------------------------------------------------

-- name: read_request
select digest, reply from requests where device = ? and id = ?;

-- name: add_request
insert into requests (device, id, digest, reply, lived_s, promised) values (?, ?, ?, ?, ?, ?)
on conflict (device, id) do update set digest = excluded.digest, reply = excluded.reply, lived_s = excluded.lived_s,
  promised = excluded.promised where requests.promised = 0;

-- name: remove_requests
-- by requests_age, which begins with promised
delete from requests where promised in (0, 1) and lived_s < ?;

-- name: remove_requests_surplus
-- by requests_age, as far as what stays
delete from requests where promised = 0 and lived_s < (
  select lived_s from requests where promised = 0 order by lived_s desc limit 1 offset ?
);

-- name: read_reservations_open
select device, payment_id, token, amount, currency, at_s, stored, against from reservations where ended is null
order by at_s, device, payment_id;

-- name: count_declined_on
select count(*) from reservations where ended = 'declined' and ended_day = ?;

-- name: add_reservation
insert into reservations (device, payment_id, token, amount, currency, at_s, stored, against, manager, reason)
values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (device, payment_id) do nothing;

-- name: add_reservation_against
insert into reservations (device, payment_id, token, amount, currency, at_s, stored, against, manager, reason)
values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
on conflict (device, payment_id) do update set ended = null, ended_s = null, ended_day = null, stored = 1, against = 1,
  amount = max(reservations.amount, excluded.amount) where reservations.ended = 'released' and reservations.stored = 0;

-- name: grow_reservation
update reservations set amount = max(amount, ?) where device = ? and payment_id = ?;

-- name: read_unaccounted
-- What is approved and not known to be stored, by whichever device, or was captured higher; then what was taken offline
-- without an approval. Each step goes by an index, but for one pass over the payments.
select position, device, payment_id, card_token, amount, currency, offline from (
  select e.* from reservations r join payment_events e on e.payment_id = r.payment_id
  where r.ended is null and (r.stored = 0 or (e.device = r.device and e.amount > r.amount))
  union
  select e.* from payment_events e left join reservations r on r.device = e.device and r.payment_id = e.payment_id
  where e.offline = 1 and (r.payment_id is null or (r.ended = 'released' and r.stored = 0))
    and not exists (select 1 from payment_fates f where f.payment_id = e.payment_id)
) where kind in ('authorized', 'captured') and tender = 'card' and training = 0
order by position;

-- name: has_payment_fate
select 1 from payment_fates where payment_id = ? limit 1;

-- name: read_reservations_fated
select r.payment_id, f.fate from reservations r join payment_fates f on f.payment_id = r.payment_id
where r.ended is null order by f.id;

-- name: forget_reservations
-- while the records of a payment are kept they would be counted anew
delete from reservations where (device, payment_id) in
  (select r.device, r.payment_id from reservations r where r.ended is not null and r.ended_s < ? and not exists
    (select 1 from payment_events p where p.payment_id = r.payment_id) limit ?);

-- name: note_reservation_stored
update reservations set stored = 1 where device = ? and payment_id = ?;

-- name: end_reservation
update reservations set ended = ?, ended_s = ?, ended_day = ? where payment_id = ? and ended is null;
-- Payments ------------------------------------------------------------------------------------------------------------

-- name: read_payments_place
select position from payments_place where one = 1;

-- name: write_payments_place
update payments_place set position = ? where one = 1;

-- name: find_slice_end
select max(position) from (select position from records where position > ?1 and position <= ?2 order by position limit ?3);

-- name: read_payment_records
-- by primary key; the marks are looked for by SQLite, so that whatever is of no payment never becomes a Python object
select position, device_epoch, device_sequence, boot, recorded_ms, uptime_ms, synced, prevhash, rechash, event, beside
from records where position > ?1 and position <= ?2
  and (instr(event, ?3) > 0 or instr(event, ?4) > 0 or (instr(event, ?5) > 0 and instr(event, ?6) > 0))
order by position;

-- name: add_payment_event
insert or replace into payment_events
  (position, payment_id, kind, device, event_id, epoch, sequence, check_id, amount, currency, tender, card_token, last4,
   offline, training, authorization_code, business_date, device_ms, recorded_ms, uptime_ms, boot)
values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: find_same_card
-- by payment_events_card
select position, payment_id, kind, device, event_id, epoch, sequence, check_id, amount, currency, tender, card_token, last4,
       offline, training, authorization_code, business_date, device_ms, recorded_ms, uptime_ms, boot
from payment_events where card_token = ? and amount = ? and payment_id <> ? order by position desc limit ?;

-- name: add_payment_twins
insert or ignore into payment_twins (payment_id, twin_id, position) values (?, ?, ?);

-- name: read_open_twins
-- the whole table, the latest last
select payment_id, twin_id from (
  select t.payment_id, t.twin_id, t.position from payment_twins t where not exists
    (select 1 from payment_dismissals d where d.payment_id = t.payment_id and d.twin_id = t.twin_id)
  order by t.position desc limit ?
) order by position, payment_id, twin_id;

-- name: dismiss_twins
insert or ignore into payment_dismissals (payment_id, twin_id, actor, reason, wall_ms, uptime_ms, boot)
values (?, ?, ?, ?, ?, ?, ?);

-- name: read_payment
-- by payment_events_payment
select position, payment_id, kind, device, event_id, epoch, sequence, check_id, amount, currency, tender, card_token, last4,
       offline, training, authorization_code, business_date, device_ms, recorded_ms, uptime_ms, boot
from payment_events where payment_id in (select value from json_each(?)) order by position;

-- name: find_payments_of_check
-- by payment_events_check
select payment_id from payment_events where check_id = ? group by payment_id order by max(position) desc limit ?;

-- name: find_payments_of_sequence
-- the whole index
select payment_id from payment_events where device = ?1 and sequence = ?2 and (?3 is null or epoch = ?3)
group by payment_id order by max(position) desc limit ?4;

-- name: find_payments_by_last4
-- the whole index; the time is judged by who asks
select position, payment_id, kind, device, event_id, epoch, sequence, check_id, amount, currency, tender, card_token, last4,
       offline, training, authorization_code, business_date, device_ms, recorded_ms, uptime_ms, boot
from payment_events where last4 = ?1 and amount = ?2 and (?3 is null or currency = ?3)
  and kind in ('authorized', 'captured') order by position desc limit ?4;

-- name: find_payments_of_day
-- the whole index: whatever may belong to the day by any of its times; which of them does is judged by who asks
select p.position, payment_id, kind, device, event_id, epoch, sequence, check_id, amount, currency, tender, card_token,
       last4, offline, training, authorization_code, business_date, device_ms, recorded_ms, uptime_ms, p.boot
from payment_events p left join boots b on b.id = p.boot
where business_date = ?1 or device_ms between ?2 and ?3
  or coalesce(b.offset_ms + p.uptime_ms, p.recorded_ms) between ?2 and ?3
  or check_id in (select check_id from payment_check_days where business_date = ?1)
order by p.position;

-- name: add_check_day
insert or ignore into payment_check_days (check_id, business_date, position) values (?, ?, ?);

-- name: read_check_days
select check_id, business_date from payment_check_days where check_id in (select value from json_each(?))
order by check_id, business_date;

-- name: drop_old_check_days
-- by payment_check_days_position
delete from payment_check_days where (check_id, business_date) in
  (select check_id, business_date from payment_check_days where position < ? order by position limit ?);

-- name: find_undone
-- by payment_events_undoing
select payment_id from payment_events p
where kind in ('voided', 'refunded', 'reversed') and training = 0 and tender <> 'cash' and not exists
  (select 1 from payment_fates f where f.payment_id = p.payment_id and f.fate = 'posted')
group by payment_id order by max(position) desc limit ?;

-- name: read_payment_fates
select payment_id, fate, at, reason, cursor, committed from payment_fates
where payment_id in (select value from json_each(?)) order by id;

-- name: add_payment_fate
insert into payment_fates (payment_id, fate, at, reason, cursor, committed) values (?, ?, ?, ?, ?, ?)
on conflict (payment_id, fate) do nothing;

-- name: find_refused_up
select position from quarantine where reason = 'cloud_refused' and state = 'open';

-- name: read_last_payment_mark
select position from payment_marks order by position desc limit 1;

-- name: read_payment_mark
select wall_ms, uptime_ms, boot from payment_marks where position >= ? order by position limit 1;

-- name: add_payment_mark
insert or ignore into payment_marks (position, wall_ms, uptime_ms, boot) values (?, ?, ?, ?);

-- name: drop_payment_marks_above
delete from payment_marks where position > ?;

-- name: drop_payment_marks_below
delete from payment_marks where position < ?;

-- name: has_payment_between
select 1 from payment_events where position > ? and position <= ? limit 1;

-- name: forget_lost_payments
-- records behind the cursor that are gone were set aside, and are asked for again
delete from payment_events where position > ? and not exists
  (select 1 from records r where r.position = payment_events.position);

-- name: drop_old_payments
delete from payment_events where position in
  (select position from payment_events where position < ? order by position limit ?);

-- name: drop_old_payment_fates
-- the oldest first
delete from payment_fates where id in (select id from payment_fates order by id limit ?1) and committed < ?2
  and not exists (select 1 from payment_events p where p.payment_id = payment_fates.payment_id);

-- name: drop_old_twins
delete from payment_twins where not exists
  (select 1 from payment_events p where p.payment_id = payment_twins.payment_id)
  or not exists (select 1 from payment_events p where p.payment_id = payment_twins.twin_id);

-- name: drop_old_dismissals
delete from payment_dismissals where not exists
  (select 1 from payment_twins t where t.payment_id = payment_dismissals.payment_id
   and t.twin_id = payment_dismissals.twin_id);

-- Orders --------------------------------------------------------------------------------------------------------------

-- name: read_order_facts
-- by the unique index
select fact from order_facts where order_id = ? order by id;

-- name: add_order_fact
insert or ignore into order_facts (order_id, fact) values (?, ?);

-- name: write_order
insert into orders (order_id, resting, changed_s) values (?, ?, ?)
on conflict (order_id) do update set resting = excluded.resting, changed_s = excluded.changed_s;

-- name: read_order_told
select data, lived_s from commands where event = 'order.placed' and business = ?;

-- name: write_order_told
update commands set data = ? where event = 'order.placed' and business = ?;

-- name: read_order_commands
-- the whole table
select event, business, data from commands where event in ('order.placed', 'order.cancelled', 'order.refunded')
order by id;

-- name: find_orders_open
-- by orders_resting
select order_id from orders where resting = 0 or changed_s >= ? order by id desc limit ?;

-- name: find_orders_latest
select order_id from orders order by id desc limit ?;

-- name: find_orders_named
-- the latest commands of that event; names as the guests wrote them
select business, data from commands where event = 'order.placed' order by id desc limit ?;

-- name: has_order
select 1 from orders where order_id = ?;

-- name: find_orders_old
-- by orders_resting
select order_id from orders where resting = 1 and changed_s < ? order by changed_s limit ?;

-- name: forget_order
delete from orders where order_id = ?;

-- name: forget_order_facts
delete from order_facts where order_id = ?;

-- name: forget_order_commands
delete from commands where event in ('order.placed', 'order.cancelled', 'order.refunded') and business = ?;

-- name: read_orders_place
select position, taken from orders_place where one = 1;

-- name: write_orders_place
update orders_place set position = ? where one = 1;

-- name: write_orders_taken
update orders_place set taken = 1 where one = 1;

-- name: read_order_records
-- by primary key; the marks are looked for by SQLite, so that whatever is of no order never becomes a Python object
select position, device_epoch, device_sequence, boot, recorded_ms, uptime_ms, synced, prevhash, rechash, event, beside
from records where position > ?1 and position <= ?2 and (instr(event, ?3) > 0 or instr(event, ?4) > 0)
order by position;

-- name: find_own_order_records
-- the whole log
select r.event from records r join device_epochs e on e.id = r.device_epoch join devices d on d.id = e.device
where d.device = 'agent' and instr(r.event, ?) > 0 order by r.position;
