-- When each claim of a profile was issued, in seconds since 1970: a token that has only one of them says nothing about the
-- other. profile_issued_at stays the later of the two, for servers of former releases, which write no other time. Where it
-- is later than both, such a server wrote last, and it counts for both.
ALTER TABLE users
    ADD COLUMN email_issued_at bigint NOT NULL DEFAULT 0,
    ADD COLUMN display_name_issued_at bigint NOT NULL DEFAULT 0;
