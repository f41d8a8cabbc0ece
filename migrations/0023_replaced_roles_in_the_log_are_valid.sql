-- Reads the change log once. Nothing waits but the next change of the schema.
ALTER TABLE log VALIDATE CONSTRAINT log_replaced_by;
