-- Reads the invitations and the outbox once. Nothing waits but the next change of the schema.
DO $$
BEGIN
    ALTER TABLE invitations VALIDATE CONSTRAINT invitations_locale;
    ALTER TABLE outbox VALIDATE CONSTRAINT outbox_locale;
END
$$;
