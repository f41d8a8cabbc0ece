-- A mail that was removed from the outbox because its invitation ended is NOT_SENT.
DO $$
BEGIN
    ALTER TABLE invitations DROP CONSTRAINT invitations_mail;
    ALTER TABLE invitations ADD CONSTRAINT invitations_mail
        CHECK (mail_state IN ('WAITING', 'SENT', 'FAILED', 'NOT_SENT')) NOT VALID;
END
$$;
