-- Names of people's files and where their bytes are. Times are Unix milliseconds.

-- +goose Up
create table file (
  id        integer primary key,
  user      text    not null,
  type      text    not null check (type in ('input', 'output', 'temp')),
  subfolder text    not null,
  name      text    not null,
  blob_key  text    not null unique,
  size      integer not null check (size >= 0),
  hash      blob    not null check (length(hash) = 32),
  modified  integer not null,
  job       text    not null default '', -- the job that made it; empty for uploads
  node      text    not null default '',
  unique (user, type, subfolder, name)
) strict;
create index file_newest on file (user, type, modified desc, id desc);
create index file_same on file (user, type, subfolder, hash);
create index file_temp on file (modified) where type = 'temp';

-- What a person keeps. Triggers hold it true, whoever changes file.
create table file_usage (
  user  text    primary key,
  bytes integer not null,
  files integer not null
) strict, without rowid;

-- +goose StatementBegin
create trigger file_added after insert on file begin
  insert into file_usage (user, bytes, files) values (new.user, new.size, 1)
    on conflict (user) do update set bytes = bytes + excluded.bytes, files = files + 1;
end;
-- +goose StatementEnd
-- +goose StatementBegin
create trigger file_removed after delete on file begin
  update file_usage set bytes = bytes - old.size, files = files - 1 where user = old.user;
  delete from file_usage where user = old.user and files = 0;
end;
-- +goose StatementEnd
-- +goose StatementBegin
create trigger file_resized after update of size on file when old.size <> new.size begin
  update file_usage set bytes = bytes + new.size - old.size where user = new.user;
end;
-- +goose StatementEnd

-- The next number of each person's names: outputs by what stands before the counter, uploads by the name that was
-- taken. A number is not given twice, so that an address never comes to mean another picture.
create table file_counter (
  user      text    not null,
  type      text    not null,
  subfolder text    not null,
  stem      text    not null,
  next      integer not null,
  used      integer not null,
  primary key (user, type, subfolder, stem)
) strict, without rowid;
create index file_counter_temp on file_counter (used) where type = 'temp';

-- The slots of outputs: what was delivered of a job, once each. file is null when its owner deleted it.
create table delivery (
  job      text    not null,
  node     text    not null,
  key      text    not null,
  idx      integer not null,
  fence    integer not null, -- of the attempt whose bytes these are
  attempt  integer not null,
  file     integer references file (id) on delete set null,
  hash     blob    not null,
  theirs   text    not null, -- the counted name on the back end without its ending; empty without a counter
  number   integer not null, -- the owner's own counter
  origin   text    not null, -- back end, epoch, type, subfolder and name there, as one value
  primary key (job, node, key, idx)
) strict, without rowid;
create index delivery_file on delivery (file) where file is not null;
create index delivery_theirs on delivery (job, theirs);

-- Where a file came from, for names that a back end reports again from its cache. The newest file counts.
create table file_origin (
  back_end  text    not null,
  epoch     text    not null,
  type      text    not null,
  subfolder text    not null,
  name      text    not null,
  file      integer not null references file (id) on delete cascade,
  hash      blob    not null,
  primary key (back_end, epoch, type, subfolder, name)
) strict, without rowid;
create index file_origin_file on file_origin (file);

-- +goose Down
drop table file_origin;
drop table delivery;
drop table file_counter;
drop table file_usage;
drop table file;
