-- The organizations whose name must be folded, in the order of their list: the search reads them all.
CREATE INDEX organizations_not_folded ON organizations (name, id) WHERE folded_revision IS DISTINCT FROM row_revision;
