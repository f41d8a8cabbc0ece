-- A search of one or two characters matches the beginning of a name or a slug. The index for longer ones needs an
-- extension: `roster migrate` creates it, if it may.
DO $$
BEGIN
    CREATE INDEX organizations_by_folded_name ON organizations (folded_name);
    CREATE INDEX organizations_by_slug ON organizations (slug);
END
$$;
