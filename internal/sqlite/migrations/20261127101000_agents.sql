-- Agents that dial home, and the one-time codes that let them join. Times are Unix milliseconds, zero for "never".

-- +goose Up
create table agent_code (
  name       text    not null primary key,
  hash       blob    not null unique check (length(hash) = 32),
  made_by    text    not null,
  expires_ms integer not null
) strict;

create table agent (
  name      text    not null primary key,
  key_hash  blob    not null unique check (length(key_hash) = 32),
  made_by   text    not null,
  machine   text    not null,
  version   text    not null,
  os        text    not null,
  joined_ms integer not null,
  seen_ms   integer not null
) strict;

-- +goose Down
drop table agent;
drop table agent_code;
