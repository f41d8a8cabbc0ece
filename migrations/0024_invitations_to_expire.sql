-- Housekeeping finds with them the invitations that have expired, and the organizations that wait for the owner that they
-- invited. Writes of invitations wait while the table is read twice.
DO $$
BEGIN
    CREATE INDEX invitations_to_expire ON invitations (expire_time, organization_id) WHERE state = 'PENDING';
    CREATE INDEX invitations_of_owners ON invitations (bucket, organization_id) WHERE makes_owner;
END
$$;
