-- The replacement of a role exists: `replaced_by` stays the name, and one of two columns repeats it for a foreign key, as
-- the columns of memberships do. Neither is set for `admin` and `member`, which always exist.
DO $$
BEGIN
    ALTER TABLE organization_roles ADD COLUMN organization_replacement text COLLATE "C"
        GENERATED ALWAYS AS (CASE WHEN replaced_by LIKE 'org:%' THEN replaced_by END) STORED;
    ALTER TABLE organization_roles ADD COLUMN deployment_replacement text COLLATE "C"
        GENERATED ALWAYS AS (
            CASE WHEN replaced_by NOT LIKE 'org:%' AND replaced_by NOT IN ('admin', 'member') THEN replaced_by END)
        STORED;
    ALTER TABLE organization_roles ADD CONSTRAINT organization_roles_organization_replacement
        FOREIGN KEY (bucket, organization_id, organization_replacement)
        REFERENCES organization_roles (bucket, organization_id, name);
    ALTER TABLE organization_roles ADD CONSTRAINT organization_roles_deployment_replacement
        FOREIGN KEY (deployment_replacement) REFERENCES deployment_roles (name);
    -- For the foreign key, and for the uses of a role of the deployment.
    CREATE INDEX organization_roles_by_deployment_replacement
        ON organization_roles (deployment_replacement, bucket, organization_id, name)
        WHERE deployment_replacement IS NOT NULL;
    -- The roles whose members housekeeping moves.
    CREATE INDEX organization_roles_to_move ON organization_roles (bucket, organization_id, name)
        WHERE replaced_by IS NOT NULL;
END
$$;
