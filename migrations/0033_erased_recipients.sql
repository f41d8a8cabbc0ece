-- The recipient of an invitation is erased with its user: a hash takes the place of the address.
DO $$
BEGIN
    ALTER TABLE invitations ADD COLUMN recipient_erased boolean NOT NULL DEFAULT false;
    ALTER TABLE invitations ADD CONSTRAINT invitations_erased
        CHECK (NOT recipient_erased OR state <> 'PENDING') NOT VALID;
END
$$;
