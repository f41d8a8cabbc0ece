-- The members with a role of their organization, as in 0016.
CREATE INDEX memberships_by_organization_role ON memberships (bucket, organization_id, organization_role, user_id)
    WHERE organization_role IS NOT NULL;
