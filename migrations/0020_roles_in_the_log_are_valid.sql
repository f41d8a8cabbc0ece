-- Reads the change log once. Nothing waits but the next change of the schema.
DO $$
BEGIN
    ALTER TABLE log VALIDATE CONSTRAINT log_entry;
    ALTER TABLE log VALIDATE CONSTRAINT log_replaced_by;
END
$$;
