-- The first storey: organizations, members, users, and what every write leaves behind.
--
-- Why it is laid out like this:
-- * Every organization-scoped table leads its keys with the organization's bucket (the first byte of its random id), so
--   that a copy can be loaded bucket by bucket and the same SQL distributes over several machines by that column.
-- * What is unique over all organizations (slugs) has a table of its own, keyed by the unique value.
-- * Text with CHECK and no enum types, no triggers, no sequences: the log below must be dense, and sequences are not.

-- Which datastore this is. The epoch grows when writes were lost (a failover), so that older tokens are not believed.
CREATE TABLE datastore (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id uuid NOT NULL,
    epoch integer NOT NULL CHECK (epoch >= 1)
);
INSERT INTO datastore (id, epoch) VALUES (gen_random_uuid(), 1);

-- A user's bucket, 0 to 31: the first byte of the SHA-256 of the id, modulo 32. The program computes the same; the CHECK
-- on users holds the two together.
CREATE FUNCTION user_bucket_of(user_id text) RETURNS smallint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (get_byte(sha256(convert_to(user_id, 'UTF8')), 0) % 32)::smallint;

-- An organization's bucket, 0 to 255: the first byte of its id.
CREATE FUNCTION organization_bucket_of(organization_id uuid) RETURNS smallint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN get_byte(uuid_send(organization_id), 0)::smallint;

-- What roster knows of a user. A row is never deleted: an erased id is never taken again.
CREATE TABLE users (
    user_bucket smallint NOT NULL,
    id text COLLATE "C" NOT NULL,
    state text NOT NULL,
    deactivated_by_operator boolean NOT NULL,
    email text,
    email_normal text COLLATE "C",
    email_verified boolean NOT NULL,
    display_name text,
    -- When the identity provider said so, in seconds since 1970: an older token never overwrites what a newer one said.
    profile_issued_at bigint NOT NULL,
    revision bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (user_bucket, id),
    CONSTRAINT users_bucket CHECK (user_bucket = user_bucket_of(id)),
    CONSTRAINT users_id_length CHECK (octet_length(id) BETWEEN 1 AND 255),
    CONSTRAINT users_state CHECK (state IN ('ACTIVE', 'INACTIVE', 'ERASED')),
    CONSTRAINT users_operator CHECK (NOT deactivated_by_operator OR state = 'INACTIVE'),
    CONSTRAINT users_email_pair CHECK ((email IS NULL) = (email_normal IS NULL)),
    CONSTRAINT users_email_verified CHECK (NOT email_verified OR email IS NOT NULL),
    CONSTRAINT users_erased CHECK (state <> 'ERASED' OR (email IS NULL AND display_name IS NULL)),
    CONSTRAINT users_revision CHECK (revision >= 1)
);
-- Not unique: two users may have verified one address. Who asks by address is then told so.
CREATE INDEX users_by_email ON users (email_normal) WHERE email_verified AND state = 'ACTIVE';

CREATE TABLE organizations (
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    slug text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    attributes jsonb NOT NULL,
    -- The state it is in, or was in when it was deleted.
    state text NOT NULL,
    deactivated_by_operator boolean NOT NULL,
    -- The one owner, and the role that the owner's membership must hold: a constant, so that the foreign key below can
    -- demand it.
    owner_id text COLLATE "C",
    owner_role text NOT NULL DEFAULT 'admin',
    -- How many changes it has seen, its members' included, and at which of them this row last changed (its etag).
    revision bigint NOT NULL,
    row_revision bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    delete_time timestamptz,
    purge_time timestamptz,
    PRIMARY KEY (bucket, id),
    CONSTRAINT organizations_bucket CHECK (bucket = organization_bucket_of(id)),
    CONSTRAINT organizations_slug CHECK (slug ~ '^[a-z0-9-]{2,200}$'),
    CONSTRAINT organizations_name CHECK (char_length(name) BETWEEN 1 AND 200),
    CONSTRAINT organizations_kind CHECK (kind ~ '^[a-z][a-z0-9_-]{0,63}$'),
    CONSTRAINT organizations_attributes CHECK (jsonb_typeof(attributes) = 'object'),
    CONSTRAINT organizations_state CHECK (state IN ('PENDING', 'ACTIVE', 'INACTIVE')),
    CONSTRAINT organizations_operator CHECK (NOT deactivated_by_operator OR state = 'INACTIVE'),
    -- Only a pending organization has no owner.
    CONSTRAINT organizations_one_owner CHECK ((owner_id IS NULL) = (state = 'PENDING')),
    CONSTRAINT organizations_owner_role CHECK (owner_role = 'admin'),
    CONSTRAINT organizations_revision CHECK (1 <= row_revision AND row_revision <= revision),
    CONSTRAINT organizations_deleted CHECK ((delete_time IS NULL) = (purge_time IS NULL))
);
CREATE INDEX organizations_by_name ON organizations (name, id);
CREATE INDEX organizations_by_purge ON organizations (purge_time) WHERE purge_time IS NOT NULL;

CREATE TABLE memberships (
    bucket smallint NOT NULL,
    organization_id uuid NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    role text COLLATE "C" NOT NULL,
    attributes jsonb NOT NULL,
    -- The organization's revision at which the membership last changed: its etag. A membership removed and added again
    -- never has an old one.
    revision bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, organization_id, user_id),
    CONSTRAINT memberships_user_id_length CHECK (octet_length(user_id) BETWEEN 1 AND 255),
    -- `owner` is not here: it is a column of the organization, not a second truth.
    CONSTRAINT memberships_role CHECK (role IN ('admin', 'member')),
    CONSTRAINT memberships_attributes CHECK (jsonb_typeof(attributes) = 'object'),
    CONSTRAINT memberships_revision CHECK (revision >= 1),
    -- What the owner's foreign key points at; and a check reads the role from this index alone.
    CONSTRAINT memberships_with_role UNIQUE (bucket, organization_id, user_id, role),
    CONSTRAINT memberships_organization FOREIGN KEY (bucket, organization_id)
        REFERENCES organizations (bucket, id) ON DELETE CASCADE
);
CREATE INDEX memberships_by_user ON memberships (user_id, bucket, organization_id);

-- The owner is a member, as admin: neither removal nor demotion of an owner can be stored, by no path. Deferred, because
-- the organization and its first membership point at each other. Added last, because the two tables are a circle.
ALTER TABLE organizations ADD CONSTRAINT organizations_owner_is_admin
    FOREIGN KEY (bucket, id, owner_id, owner_role) REFERENCES memberships (bucket, organization_id, user_id, role)
    DEFERRABLE INITIALLY DEFERRED;

-- Slugs are unique over all organizations. Held until the organization is purged.
CREATE TABLE slugs (
    slug text COLLATE "C" PRIMARY KEY,
    bucket smallint NOT NULL,
    organization_id uuid NOT NULL,
    CONSTRAINT slugs_bucket CHECK (bucket = organization_bucket_of(organization_id))
);

-- The change log. A writer advances its bucket's head as its last step and writes its rows under that row lock: in a
-- bucket, position order is commit order, without gaps, and any snapshot holds a prefix.
CREATE TABLE log_heads (
    bucket smallint PRIMARY KEY,
    position bigint NOT NULL CHECK (position >= 0)
) WITH (fillfactor = 50);
INSERT INTO log_heads SELECT bucket, 0 FROM generate_series(0, 255) AS bucket;

CREATE TABLE log (
    bucket smallint NOT NULL,
    position bigint NOT NULL,
    -- The last position of the transaction that wrote this row: a reader never shows half of one.
    commit_position bigint NOT NULL,
    organization_id uuid NOT NULL,
    revision bigint NOT NULL,
    -- MEMBERSHIP: a user's role, or none any more. ORGANIZATION: its state (PURGED: gone), owner and slug.
    entry text NOT NULL,
    user_id text COLLATE "C",
    role text COLLATE "C",
    state text,
    owner_id text COLLATE "C",
    slug text COLLATE "C",
    write_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, position),
    CONSTRAINT log_position CHECK (1 <= position AND position <= commit_position),
    CONSTRAINT log_entry CHECK (
        (entry = 'MEMBERSHIP' AND user_id IS NOT NULL AND state IS NULL AND owner_id IS NULL AND slug IS NULL)
        OR (entry = 'ORGANIZATION' AND user_id IS NULL AND role IS NULL AND state IS NOT NULL AND slug IS NOT NULL))
);

-- A user's state spans organizations, so users have a log of their own.
CREATE TABLE user_log_heads (
    user_bucket smallint PRIMARY KEY,
    position bigint NOT NULL CHECK (position >= 0)
) WITH (fillfactor = 50);
INSERT INTO user_log_heads SELECT bucket, 0 FROM generate_series(0, 31) AS bucket;

CREATE TABLE user_log (
    user_bucket smallint NOT NULL,
    position bigint NOT NULL CHECK (position >= 1),
    user_id text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    state text NOT NULL,
    write_time timestamptz NOT NULL,
    PRIMARY KEY (user_bucket, position),
    CONSTRAINT user_log_state CHECK (state IN ('ACTIVE', 'INACTIVE', 'ERASED'))
);

-- One event per change: the audit trail. The organization's revision is its number. It outlives the organization.
CREATE TABLE events (
    bucket smallint NOT NULL,
    organization_id uuid NOT NULL,
    revision bigint NOT NULL,
    type text NOT NULL,
    actor_kind text NOT NULL,
    actor_id text NOT NULL,
    -- The service that acted for the user, if one did.
    actor_via text,
    user_id text COLLATE "C",
    old jsonb,
    new jsonb,
    reason text,
    request_id uuid,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, organization_id, revision),
    CONSTRAINT events_actor CHECK (actor_kind IN ('user', 'service', 'operator', 'system'))
);

-- The same for users. No profile data in it: that is erased with the user, the history is not.
CREATE TABLE user_events (
    user_bucket smallint NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    type text NOT NULL,
    actor_kind text NOT NULL,
    actor_id text NOT NULL,
    actor_via text,
    old jsonb,
    new jsonb,
    reason text,
    request_id uuid,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (user_bucket, user_id, revision),
    CONSTRAINT user_events_actor CHECK (actor_kind IN ('user', 'service', 'operator', 'system'))
);

-- The answers that were given, so that a repeated request gets the same one. The caller is a hash of kind, id and the
-- service in between.
CREATE TABLE requests (
    caller bytea NOT NULL,
    request_id uuid NOT NULL,
    fingerprint bytea NOT NULL,
    -- None only inside the transaction that claims the row.
    answer jsonb,
    -- The write took from the caller the very right that it needed (leaving, handing over, deleting): then the answer is
    -- given again although a new request would be refused.
    forfeits boolean NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (caller, request_id),
    CONSTRAINT requests_caller CHECK (octet_length(caller) = 32),
    CONSTRAINT requests_fingerprint CHECK (octet_length(fingerprint) = 32)
);
CREATE INDEX requests_by_time ON requests (create_time);
