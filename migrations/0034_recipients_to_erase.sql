-- The deletion of a user finds with these indexes the invitations whose recipients it erases. Writes of invitations wait
-- while the table is read three times.
DO $$
BEGIN
    ALTER TABLE invitations VALIDATE CONSTRAINT invitations_erased;
    CREATE INDEX invitations_by_address ON invitations (identifier_normal) WHERE is_email AND NOT recipient_erased;
    CREATE INDEX invitations_by_user ON invitations (accepted_by) WHERE accepted_by IS NOT NULL AND NOT recipient_erased;
END
$$;
