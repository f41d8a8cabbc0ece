-- The name, folded by the program for the search of organizations, and the row revision at which it was folded. Release
-- 0.2.0 does not write them: where folded_revision is not row_revision, folded_name may belong to an earlier name.
DO $$
BEGIN
    ALTER TABLE organizations ADD COLUMN folded_name text COLLATE "C";
    ALTER TABLE organizations ADD COLUMN folded_revision bigint;
    ALTER TABLE organizations
        ADD CONSTRAINT organizations_folded CHECK ((folded_name IS NULL) = (folded_revision IS NULL));
END
$$;
