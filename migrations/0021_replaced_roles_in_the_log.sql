-- The entry of a role whose members move to another role names that role. Its members hold what the other one holds.
DO $$
BEGIN
    ALTER TABLE log ADD COLUMN replaced_by text COLLATE "C";
    ALTER TABLE log ADD CONSTRAINT log_replaced_by CHECK (
        replaced_by IS NULL OR (entry = 'ROLE' AND permissions IS NOT NULL AND replaced_by <> role)) NOT VALID;
END
$$;
