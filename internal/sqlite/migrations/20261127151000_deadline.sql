-- When a job is needed.

-- +goose Up
alter table job add column deadline integer; -- Unix milliseconds; null: nobody said

-- +goose Down
alter table job drop column deadline;
