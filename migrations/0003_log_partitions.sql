-- The change log in partitions by time, and what those who follow it need.
--
-- The log grows for ever and is asked only for its newest days: by day partitions, forgetting a day is dropping a table
-- and leaves nothing for vacuum. The processes make the days ahead and drop the old ones; until one has run, and should
-- all of them fail to, the default partition takes every row, so that no write ever fails for want of a partition.
--
-- A primary key must hold the partition key, so Postgres alone no longer refuses a second row at one (bucket, position).
-- The head's row lock does: positions are handed out under it and nowhere else.
--
-- kind: who watches the organizations of one kind must be told of a purged one, whose row is gone. So each line says it.
ALTER TABLE log RENAME TO old_log;
ALTER TABLE old_log DROP CONSTRAINT log_pkey;
CREATE TABLE log (
    bucket smallint NOT NULL,
    position bigint NOT NULL,
    -- The last position of the transaction that wrote this row: a reader never shows half of one.
    commit_position bigint NOT NULL,
    organization_id uuid NOT NULL,
    revision bigint NOT NULL,
    -- The organization's kind.
    kind text COLLATE "C" NOT NULL,
    -- MEMBERSHIP: a user's role, or none any more. ORGANIZATION: its state (PURGED: gone), owner and slug.
    entry text NOT NULL,
    user_id text COLLATE "C",
    role text COLLATE "C",
    state text,
    owner_id text COLLATE "C",
    slug text COLLATE "C",
    -- The same for all rows of one append, and in a bucket later for every later one: positions and times order alike.
    write_time timestamptz NOT NULL,
    CONSTRAINT log_pkey PRIMARY KEY (bucket, position, write_time),
    CONSTRAINT log_position CHECK (1 <= position AND position <= commit_position),
    CONSTRAINT log_entry CHECK (
        (entry = 'MEMBERSHIP' AND user_id IS NOT NULL AND state IS NULL AND owner_id IS NULL AND slug IS NULL)
        OR (entry = 'ORGANIZATION' AND user_id IS NULL AND role IS NULL AND state IS NOT NULL AND slug IS NOT NULL))
) PARTITION BY RANGE (write_time);
CREATE TABLE log_default PARTITION OF log DEFAULT;
-- What was purged is not asked any more: it gets the kind that most have.
INSERT INTO log (bucket, position, commit_position, organization_id, revision, kind, entry, user_id, role, state, owner_id,
                 slug, write_time)
SELECT l.bucket, l.position, l.commit_position, l.organization_id, l.revision, coalesce(o.kind, 'organization'), l.entry,
       l.user_id, l.role, l.state, l.owner_id, l.slug, l.write_time
FROM old_log l LEFT JOIN organizations o ON o.bucket = l.bucket AND o.id = l.organization_id;
DROP TABLE old_log;

ALTER TABLE user_log RENAME TO old_user_log;
ALTER TABLE old_user_log DROP CONSTRAINT user_log_pkey;
CREATE TABLE user_log (
    user_bucket smallint NOT NULL,
    position bigint NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    state text NOT NULL,
    write_time timestamptz NOT NULL,
    CONSTRAINT user_log_pkey PRIMARY KEY (user_bucket, position, write_time),
    CONSTRAINT user_log_position_check CHECK (position >= 1),
    CONSTRAINT user_log_state CHECK (state IN ('ACTIVE', 'INACTIVE', 'ERASED'))
) PARTITION BY RANGE (write_time);
CREATE TABLE user_log_default PARTITION OF user_log DEFAULT;
INSERT INTO user_log (user_bucket, position, user_id, revision, state, write_time)
SELECT user_bucket, position, user_id, revision, state, write_time FROM old_user_log;
DROP TABLE old_user_log;

-- When the newest row was written; 1970 before the first one. A database that lost its last commits in a failover counts
-- on from where it stands, so a position alone can name two different rows: with its time, a follower notices that the
-- log it has applied is not the log that is there.
ALTER TABLE log_heads ADD COLUMN write_time timestamptz NOT NULL DEFAULT 'epoch';
UPDATE log_heads h SET write_time = l.write_time FROM log l WHERE l.bucket = h.bucket AND l.position = h.position;
ALTER TABLE log_heads ALTER COLUMN write_time DROP DEFAULT;
ALTER TABLE user_log_heads ADD COLUMN write_time timestamptz NOT NULL DEFAULT 'epoch';
UPDATE user_log_heads h SET write_time = l.write_time
FROM user_log l WHERE l.user_bucket = h.user_bucket AND l.position = h.position;
ALTER TABLE user_log_heads ALTER COLUMN write_time DROP DEFAULT;

-- A copy of the users is a copy of the few that are not active: all others are taken to be.
CREATE INDEX users_not_active ON users (user_bucket, id) WHERE state <> 'ACTIVE';
