-- Reads the invitations once. Nothing waits but the next change of the schema.
ALTER TABLE invitations VALIDATE CONSTRAINT invitations_mail;
