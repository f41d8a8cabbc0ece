-- The locale of the mails of an invitation, and of the mail to a user who was added. None for that of the deployment, which
-- is also what servers of release 0.3 write.
DO $$
BEGIN
    ALTER TABLE invitations ADD COLUMN locale text COLLATE "C";
    ALTER TABLE invitations ADD CONSTRAINT invitations_locale
        CHECK (locale ~ '^[a-z]{2,3}(-[A-Za-z0-9]{1,8})*$' AND length(locale) <= 35) NOT VALID;
    ALTER TABLE outbox ADD COLUMN locale text COLLATE "C";
    ALTER TABLE outbox ADD CONSTRAINT outbox_locale
        CHECK (locale ~ '^[a-z]{2,3}(-[A-Za-z0-9]{1,8})*$' AND length(locale) <= 35) NOT VALID;
END
$$;
