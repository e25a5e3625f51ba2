-- What orders waiting jobs beside their class and number, keys of repeated submissions, the queue's own settings, and
-- indexes by which old jobs go.

-- +goose Up
alter table job add column held integer not null default 0;
alter table job add column profile blob; -- null: nothing is known

-- A person's Idempotency-Key is the job that was submitted with it, until then.
create table job_key (
  user  text    not null,
  key   text    not null,
  seq   integer not null references job (seq),
  until integer not null,
  primary key (user, key)
) strict, without rowid;
create index job_key_job on job_key (seq);
create index job_key_until on job_key (until);

create table queue_setting (
  name  text primary key,
  value blob not null
) strict, without rowid;

create index job_finished on job (finished) where ended is not null;
create index job_hidden on job (user, ended) where ended is not null and hidden = 1;

-- +goose Down
drop index job_hidden;
drop index job_finished;
drop table queue_setting;
drop table job_key;
alter table job drop column profile;
alter table job drop column held;
