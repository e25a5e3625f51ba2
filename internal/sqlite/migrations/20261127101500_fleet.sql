-- Back ends that operators added, or took out, while the studio ran; and what graphs asked for that no back end has.

-- +goose Up
create table member (
  name text primary key,
  body blob not null -- package app's own form
) strict, without rowid;

create table wanted (
  kind       text not null, -- model or node
  folder     text not null, -- of a model; may be empty
  name       text not null,
  user_group text not null, -- who asked; empty: people without one
  count      integer not null,
  first      integer not null, -- Unix milliseconds
  last       integer not null, -- Unix milliseconds
  primary key (kind, folder, name, user_group)
) strict, without rowid;

-- +goose Down
drop table wanted;
drop table member;
