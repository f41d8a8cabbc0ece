-- The access model: the permissions and roles of the deployment, one document. Its change log is bucket 288, after the
-- buckets of organizations and users. A position in that log is a revision of the model, so access_model is also the
-- head of that log, and access_model_revisions holds its rows.
DO $$
BEGIN
    CREATE TABLE access_model (
        only_row boolean NOT NULL DEFAULT true,
        -- The number of models that were applied: its etag.
        revision bigint NOT NULL,
        -- When the model was applied; 1970 for the first one, which has no row in access_model_revisions.
        write_time timestamptz NOT NULL,
        model jsonb NOT NULL,
        -- Whether every server knows roles and permissions that are not built in, so that they can be defined.
        enabled boolean NOT NULL,
        CONSTRAINT access_model_pkey PRIMARY KEY (only_row),
        CONSTRAINT access_model_only_row CHECK (only_row),
        CONSTRAINT access_model_revision CHECK (revision >= 0),
        CONSTRAINT access_model_model CHECK (jsonb_typeof(model) = 'object')
    );
    INSERT INTO access_model (revision, write_time, model, enabled)
    VALUES (0, 'epoch', '{}', false);

    -- Kept for good: it is the audit trail of the model, and a model is applied a few times a day at most.
    CREATE TABLE access_model_revisions (
        revision bigint NOT NULL,
        model jsonb NOT NULL,
        actor_kind text NOT NULL,
        actor_id text NOT NULL,
        -- The service that acted for the user, if one did.
        actor_via text,
        reason text,
        request_id uuid,
        -- The write time of the revision. That of a later revision is later.
        create_time timestamptz NOT NULL,
        CONSTRAINT access_model_revisions_pkey PRIMARY KEY (revision),
        CONSTRAINT access_model_revisions_revision CHECK (revision >= 1),
        CONSTRAINT access_model_revisions_model CHECK (jsonb_typeof(model) = 'object'),
        CONSTRAINT access_model_revisions_actor CHECK (actor_kind IN ('user', 'service', 'operator', 'system'))
    );

    -- The roles of the model, for the foreign key of memberships. `owner`, `admin` and `member` always exist and have
    -- no row.
    CREATE TABLE deployment_roles (
        name text COLLATE "C" NOT NULL,
        -- The one kind of organizations that has the role; none for a role of all kinds.
        kind text COLLATE "C",
        -- The role that replaces it, while its members move there. No member gets a role that is being replaced.
        replaced_by text COLLATE "C",
        CONSTRAINT deployment_roles_pkey PRIMARY KEY (name),
        CONSTRAINT deployment_roles_name CHECK (
            name ~ '^[a-z][a-z0-9_-]{0,63}$' AND name NOT IN ('owner', 'admin', 'member')),
        CONSTRAINT deployment_roles_kind CHECK (kind ~ '^[a-z][a-z0-9_-]{0,63}$'),
        CONSTRAINT deployment_roles_replaced_by CHECK (replaced_by <> name)
    );
END
$$;
