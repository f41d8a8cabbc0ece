-- Reads the memberships once, and the indexes of 0016 and 0017. Nothing waits but the next change of the schema.
DO $$
BEGIN
    ALTER TABLE memberships VALIDATE CONSTRAINT memberships_role;
    ALTER TABLE memberships VALIDATE CONSTRAINT memberships_deployment_role;
    ALTER TABLE memberships VALIDATE CONSTRAINT memberships_organization_role;
END
$$;
