-- An invitation names any role that a member may hold. The role must exist when the invitation is accepted, and not
-- before, so there is no foreign key.
DO $$
BEGIN
    ALTER TABLE invitations DROP CONSTRAINT invitations_role;
    ALTER TABLE invitations ADD CONSTRAINT invitations_role
        CHECK (role ~ '^(org:)?[a-z][a-z0-9_-]{0,63}$' AND role <> 'owner') NOT VALID;
END
$$;
