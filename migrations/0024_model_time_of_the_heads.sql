-- The write time of the access model whose revision the head has. A primary that lost a revision in a failover gives its
-- number to another model: the two have different times. The model is locked first, as when one is applied.
DO $$
BEGIN
    PERFORM FROM access_model FOR UPDATE;
    ALTER TABLE log_heads ADD COLUMN model_time timestamptz NOT NULL DEFAULT 'epoch';
    UPDATE log_heads SET model_time = m.write_time FROM access_model m;
END
$$;
