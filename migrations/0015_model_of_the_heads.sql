-- The access model by which the bucket's head was last locked: its revision and write time. Applying a model writes them to
-- every head. A write resolves roles by a model and locks the head last, so it sees whether that model is still the present
-- one. A primary that lost a revision in a failover gives its number to another model: the two have different times.
DO $$
BEGIN
    ALTER TABLE log_heads ADD COLUMN model_revision bigint NOT NULL DEFAULT 0;
    ALTER TABLE log_heads ADD COLUMN model_time timestamptz NOT NULL DEFAULT 'epoch';

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
