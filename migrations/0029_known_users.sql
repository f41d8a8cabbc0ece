-- Whether the user has given a sign: a token, PutUser, a call on the user's behalf. false for an id that only others have
-- named, such as AddMember. Users who exist now count as known, and so do those that a server of release 0.3 inserts, which
-- does not write the column: such a server makes users for tokens as well as for AddMember.
ALTER TABLE users ADD COLUMN known boolean NOT NULL DEFAULT true;
