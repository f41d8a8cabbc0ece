-- The issuer of the token with which a change was made: names of services are unique within an issuer only. None if another
-- credential was used, for roster itself, and if a server of a release up to 0.3 wrote the row.
DO $$
BEGIN
    ALTER TABLE events ADD COLUMN actor_issuer text;
    ALTER TABLE user_events ADD COLUMN actor_issuer text;
    ALTER TABLE access_model_revisions ADD COLUMN actor_issuer text;
END
$$;
