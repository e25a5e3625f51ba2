-- What back ends told last of themselves, and the web files of their custom nodes.

-- +goose Up
create table snapshot (
  back_end text primary key,
  taken    integer not null, -- Unix milliseconds
  body     blob not null     -- package catalog's own form
) strict, without rowid;

create table pack_content (
  hash text primary key, -- SHA-256, hex
  body blob not null
) strict;

create table pack_file (
  back_end text not null,
  pack     text not null,
  path     text not null,
  hash     text not null references pack_content (hash),
  listed   integer not null, -- 1: a script that pages load
  primary key (back_end, pack, path)
) strict, without rowid;

create index pack_file_hash on pack_file (hash);

-- +goose Down
drop table pack_file;
drop table pack_content;
drop table snapshot;
