-- The revision of the access model when the bucket's head was last locked. Applying a model writes it to every head. A
-- write resolves roles by a model and locks the head last, so it sees whether that model is still the present one.
ALTER TABLE log_heads ADD COLUMN model_revision bigint NOT NULL DEFAULT 0;
