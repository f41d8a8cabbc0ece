-- The write time of the access model whose revision the head has. A primary that lost a revision in a failover gives its
-- number to another model: the two have different times. The model is locked first, as when one is applied.
DO $$
BEGIN
    PERFORM FROM access_model FOR UPDATE;
    ALTER TABLE log_heads ADD COLUMN model_time timestamptz NOT NULL DEFAULT 'epoch';
    UPDATE log_heads SET model_time = m.write_time FROM access_model m;

    -- Writes a model to the heads of all buckets, in the order in which every write locks them. One call instead of 256
    -- statements: no write can be committed from the first head on until the transaction ends.
    CREATE FUNCTION write_model_to_log_heads(revision bigint, write_time timestamptz) RETURNS void
        LANGUAGE plpgsql
        AS $function$
    BEGIN
        FOR number IN 0..255 LOOP
            UPDATE log_heads SET model_revision = $1, model_time = $2 WHERE bucket = number::smallint;
        END LOOP;
    END
    $function$;
END
$$;
