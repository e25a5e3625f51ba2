-- People, what they sign in with, and what they carry afterwards. Secrets are hashes. Times are Unix milliseconds,
-- zero for never.

-- +goose Up
create table account_groups (
  name       text primary key,
  title      text not null,
  created_ms integer not null
) strict, without rowid;

create table users (
  name       text primary key,
  grp        text references account_groups (name), -- null: in none
  role       text not null check (role in ('participant', 'instructor', 'operator')),
  suspended  integer not null default 0 check (suspended in (0, 1)),
  proof      text not null check (proof in ('', 'password', 'pin')),
  secret     text not null check ((proof = '') = (secret = '')),
  created_ms integer not null,
  seen_ms    integer not null default 0
) strict, without rowid;
create index users_by_group on users (grp, name);

create table sessions (
  hash       blob primary key check (length(hash) = 32),
  id         text not null,
  user       text not null references users (name) on delete cascade,
  device     text not null,
  address    text not null,
  via        text not null,
  created_ms integer not null,
  seen_ms    integer not null,
  expires_ms integer not null
) strict, without rowid;
create unique index sessions_by_user on sessions (user, id);

create table tokens (
  hash       blob primary key check (length(hash) = 32),
  id         text not null,
  user       text not null references users (name) on delete cascade,
  label      text not null,
  scope      text not null,
  created_ms integer not null,
  used_ms    integer not null default 0,
  expires_ms integer not null default 0
) strict, without rowid;
create unique index tokens_by_user on tokens (user, id);

create table signin_links (
  hash       blob primary key check (length(hash) = 32),
  user       text not null references users (name) on delete cascade,
  made_by    text not null,
  created_ms integer not null,
  expires_ms integer not null,
  used_ms    integer not null default 0
) strict, without rowid;
create index signin_links_by_user on signin_links (user);

create table class_codes (
  code       text primary key,
  grp        text not null references account_groups (name) on delete cascade,
  made_by    text not null,
  places     integer not null,
  joined     integer not null default 0,
  created_ms integer not null,
  expires_ms integer not null
) strict, without rowid;
create index class_codes_by_group on class_codes (grp, created_ms);

-- +goose Down
drop table class_codes;
drop table signin_links;
drop table tokens;
drop table sessions;
drop table users;
drop table account_groups;
