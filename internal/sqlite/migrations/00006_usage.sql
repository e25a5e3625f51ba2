-- What people take of the GPUs, and what was learned of how long graphs take. Times are Unix seconds, GPU time is
-- milliseconds.

-- +goose Up
create table usage_hour (
  start integer not null,
  user  text    not null, -- empty: people who are gone
  grp   text    not null, -- empty: none
  jobs  integer not null,
  gpu   integer not null,
  primary key (start, user, grp)
) strict, without rowid;
create index usage_hour_user on usage_hour (user);

create table usage_learned (
  key  blob primary key, -- a hash of what is alike
  body blob not null     -- package usage's own form
) strict, without rowid;

-- +goose Down
drop table usage_learned;
drop table usage_hour;
