-- The change log gets a type of entry. ROLE: a role of the organization, with its permissions; none if the role is gone. The
-- entry of a role whose members move to another role names that role: its members hold what the other one holds.
DO $$
BEGIN
    ALTER TABLE log ADD COLUMN permissions text[] COLLATE "C";
    ALTER TABLE log ADD COLUMN replaced_by text COLLATE "C";
    ALTER TABLE log DROP CONSTRAINT log_entry;
    ALTER TABLE log ADD CONSTRAINT log_entry CHECK (
        (entry = 'MEMBERSHIP' AND user_id IS NOT NULL AND state IS NULL AND owner_id IS NULL AND slug IS NULL
             AND permissions IS NULL)
        OR (entry = 'ORGANIZATION' AND user_id IS NULL AND role IS NULL AND state IS NOT NULL AND slug IS NOT NULL
             AND permissions IS NULL)
        OR (entry = 'ROLE' AND user_id IS NULL AND role IS NOT NULL AND role LIKE 'org:%' AND state IS NULL
             AND owner_id IS NULL AND slug IS NULL)) NOT VALID;
    ALTER TABLE log ADD CONSTRAINT log_replaced_by CHECK (
        replaced_by IS NULL OR (entry = 'ROLE' AND permissions IS NOT NULL AND replaced_by <> role)) NOT VALID;
END
$$;
