-- The members with a role that is not built in: by the role, for the foreign keys, for counts and to move them. Few
-- members are in these indexes. Writes of memberships wait while the table is read once.
DO $$
BEGIN
    CREATE INDEX memberships_by_deployment_role ON memberships (deployment_role, bucket, organization_id, user_id)
        WHERE deployment_role IS NOT NULL;
    CREATE INDEX memberships_by_organization_role ON memberships (bucket, organization_id, organization_role, user_id)
        WHERE organization_role IS NOT NULL;
END
$$;
