-- A member holds `admin` or `member`, which always exist, or a role of the deployment or of the organization, which must
-- exist: `role` stays the name, and one of two columns repeats it for a foreign key. Former releases write `admin` and
-- `member` and leave both columns out.
--
-- No constraint reads the rows here, so the lock on memberships is short: 0018 validates them, without blocking writes.
-- Each of the migrations 0012 to 0015 locks one table, because two of them in one transaction could wait for a write that
-- waits for the other.
DO $$
BEGIN
    ALTER TABLE memberships ADD COLUMN deployment_role text COLLATE "C";
    ALTER TABLE memberships ADD COLUMN organization_role text COLLATE "C";
    ALTER TABLE memberships DROP CONSTRAINT memberships_role;
    -- `owner` is not here: it is a column of the organization, not a second truth.
    ALTER TABLE memberships ADD CONSTRAINT memberships_role CHECK (
        CASE WHEN organization_role IS NOT NULL
             THEN deployment_role IS NULL AND organization_role = role AND role LIKE 'org:%'
             WHEN deployment_role IS NOT NULL
             THEN deployment_role = role AND role NOT LIKE 'org:%' AND role NOT IN ('admin', 'member', 'owner')
             ELSE role IN ('admin', 'member') END) NOT VALID;
    ALTER TABLE memberships ADD CONSTRAINT memberships_deployment_role
        FOREIGN KEY (deployment_role) REFERENCES deployment_roles (name) NOT VALID;
    ALTER TABLE memberships ADD CONSTRAINT memberships_organization_role
        FOREIGN KEY (bucket, organization_id, organization_role)
        REFERENCES organization_roles (bucket, organization_id, name) NOT VALID;
END
$$;
