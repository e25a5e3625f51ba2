-- +goose Up

-- One row per job, light enough for lists. Times are milliseconds since 1970 in UTC. A job is open as long as
-- ended is null; ended orders history and comes from the same counter as seq and fence.
create table job (
  seq         integer primary key,
  id          text    not null,
  user        text    not null,
  grp         text    not null,
  prompt_id   text    not null,
  client_id   text    not null,
  number      real    not null,
  class       integer not null,
  state       text    not null check (state in ('pending', 'running', 'completed', 'failed', 'cancelled')),
  workflow_id text    not null,
  digest      blob,
  created     integer not null,
  started     integer,
  finished    integer,
  ended       integer check ((ended is null) = (state in ('pending', 'running'))),
  attempt     integer not null default 0,
  fence       integer not null default 0,
  back_end    text    not null default '',
  run_id      text    not null default '',
  run_client  text    not null default '',
  lease       integer,
  posted      integer not null default 0,
  stop        integer not null default 0,
  hidden      integer not null default 0,
  error       text    not null default '',
  summary     blob
) strict;

create unique index job_id on job (id);
-- A prompt id is unique per person among what is open or in history.
create unique index job_prompt on job (prompt_id, user) where hidden = 0;
create index job_open on job (seq) where ended is null;
create index job_history on job (user, ended) where ended is not null and hidden = 0;
create index job_list on job (user, seq, state, ended) where ended is not null and hidden = 0;

-- What a job asks for and how it ended, packed. Lists never read them.
create table job_request (
  seq  integer primary key references job (seq),
  body blob not null
) strict;

create table job_outcome (
  seq  integer primary key references job (seq),
  body blob not null
) strict;

-- Credentials of paid nodes, sealed with the studio's key. A row goes when its job ends.
create table job_credential (
  seq    integer primary key references job (seq),
  sealed blob not null
) strict;

-- No number of a person's counter up to mark is given again.
create table job_number (
  user text    primary key,
  mark integer not null
) strict, without rowid;

-- Counters that must never run backwards, reserved in blocks: everything up to mark may have been given out.
create table counter (
  name text    primary key,
  mark integer not null
) strict, without rowid;
