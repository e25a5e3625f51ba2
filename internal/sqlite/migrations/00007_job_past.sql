-- One index of each person's finished jobs instead of two: with many people every end writes a page of each.

-- +goose Up
create index job_past on job (user, ended, seq, state) where ended is not null and hidden = 0;
drop index job_list;
drop index job_history;

-- +goose Down
create index job_history on job (user, ended) where ended is not null and hidden = 0;
create index job_list on job (user, seq, state, ended) where ended is not null and hidden = 0;
drop index job_past;
