-- Attempts that are over and did not end their job, or were not its first, and what runs on paid back ends cost.
-- Times are Unix milliseconds; money is in millionths of the unit that prices are in.

-- +goose Up
create table job_try (
  seq      integer not null,
  n        integer not null,
  back_end text    not null,
  began    integer,
  ended    integer,
  posted   integer not null,
  cause    text    not null,
  reason   text    not null,
  primary key (seq, n)
) strict, without rowid;

alter table usage_hour add column spent integer not null default 0;

-- +goose Down
alter table usage_hour drop column spent;
drop table job_try;
