-- The members with a role of the deployment: for the foreign key, for counts and to move them. Writes of memberships wait
-- while the table is read once. No CREATE INDEX CONCURRENTLY: it waits for every snapshot, also for that of a second
-- `roster migrate`, which waits for the first one.
CREATE INDEX memberships_by_deployment_role ON memberships (deployment_role, bucket, organization_id, user_id)
    WHERE deployment_role IS NOT NULL;
