-- The roles that organizations define for themselves. Their names begin with `org:`, so none is a name of the deployment.
DO $$
BEGIN
    CREATE TABLE organization_roles (
        bucket smallint NOT NULL,
        organization_id uuid NOT NULL,
        name text COLLATE "C" NOT NULL,
        title text NOT NULL,
        description text NOT NULL,
        permissions text[] COLLATE "C" NOT NULL,
        -- The role that replaces it, while its members move there. No member gets a role that is being replaced.
        replaced_by text COLLATE "C",
        -- The replacement exists: one of two columns repeats its name for a foreign key, as the columns of memberships do.
        -- Neither is set for `admin` and `member`, which always exist.
        organization_replacement text COLLATE "C"
            GENERATED ALWAYS AS (CASE WHEN replaced_by LIKE 'org:%' THEN replaced_by END) STORED,
        deployment_replacement text COLLATE "C"
            GENERATED ALWAYS AS (
                CASE WHEN replaced_by NOT LIKE 'org:%' AND replaced_by NOT IN ('admin', 'member') THEN replaced_by END)
            STORED,
        -- The organization's revision at which the role last changed: its etag.
        revision bigint NOT NULL,
        create_time timestamptz NOT NULL,
        update_time timestamptz NOT NULL,
        CONSTRAINT organization_roles_pkey PRIMARY KEY (bucket, organization_id, name),
        CONSTRAINT organization_roles_name CHECK (name ~ '^org:[a-z][a-z0-9_-]{0,63}$'),
        CONSTRAINT organization_roles_title CHECK (char_length(title) <= 200),
        CONSTRAINT organization_roles_description CHECK (char_length(description) <= 1000),
        CONSTRAINT organization_roles_permissions CHECK (array_position(permissions, NULL) IS NULL),
        CONSTRAINT organization_roles_replaced_by CHECK (replaced_by <> name),
        CONSTRAINT organization_roles_revision CHECK (revision >= 1),
        CONSTRAINT organization_roles_organization FOREIGN KEY (bucket, organization_id)
            REFERENCES organizations (bucket, id) ON DELETE CASCADE,
        CONSTRAINT organization_roles_organization_replacement
            FOREIGN KEY (bucket, organization_id, organization_replacement)
            REFERENCES organization_roles (bucket, organization_id, name),
        CONSTRAINT organization_roles_deployment_replacement
            FOREIGN KEY (deployment_replacement) REFERENCES deployment_roles (name)
    );
    -- For the foreign key, and for the uses of a role of the deployment.
    CREATE INDEX organization_roles_by_deployment_replacement
        ON organization_roles (deployment_replacement, bucket, organization_id, name)
        WHERE deployment_replacement IS NOT NULL;
    -- The roles whose members housekeeping moves.
    CREATE INDEX organization_roles_to_move ON organization_roles (bucket, organization_id, name)
        WHERE replaced_by IS NOT NULL;
    -- Which roles hold a permission: asked before a model takes it away. The write that fills the list of pending entries
    -- has to sort them in: a list of 256 KiB delays it by some milliseconds, the default one of 4 MiB by a second.
    CREATE INDEX organization_roles_by_permission ON organization_roles USING gin (permissions)
        WITH (gin_pending_list_limit = 256);
END
$$;
